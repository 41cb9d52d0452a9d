//! `wardkey serve`, and the first start.

use std::{
    io::IsTerminal as _,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, builder::BoolishValueParser};
use ipnet::IpNet;
use serde_json::json;
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use super::{
    Exit, print,
    trust::{TrustArgs, read_signature},
};
use crate::{
    active_policy::ActivePolicy,
    api::{admin::AdminAccess, internal::InternalAccess},
    clock::Clock,
    data_dir::{DataDir, DataDirError},
    engine::Engine,
    fallback::MIN_OWNERS,
    gate::{DEFAULT_FAILED_AUTH_PER_MINUTE, DEFAULT_PREFIX, GateConfig, SELF_PATH},
    health::MAX_OWNERS,
    host::{Api, Host, Parts},
    keys::{Actor, Ask, CreateAccount, timestamp},
    secret::{Brand, Digest},
    server,
    storage::{AuditFilter, KeyFilter, KeyRecord, Mode, SqliteStorage, Storage as _},
    trial::try_policy,
    trust::Trust,
    upstream::UpstreamUrl,
    verification::{Delivery, VerificationConfig, Verifier},
};

pub(super) const DEFAULT_DATA_DIR: &str = "wardkey-data";

/// What the first account is called until somebody gives it a name.
const FIRST_ACCOUNT: &str = "Default account";

/// How long storage may take for what is in memory when the host stops. A disk
/// that stalls must not keep it from ending.
const FINISH_PATIENCE: Duration = Duration::from_secs(20);

/// How long to wait for who holds the data directory without answering.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// How often to look again.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// What the welcome proposes to ask the simulated API for, if the catalogue has
/// it.
const FIRST_REQUEST: &str = "/v1/balance";

#[derive(Args, Debug)]
pub(super) struct ServeArgs {
    /// The folder in which the host keeps everything.
    #[arg(long, env = "WARDKEY_DATA_DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// Makes the data directory. Without it, an empty or missing folder is
    /// refused: a disk that is not mounted looks the same.
    #[arg(long, env = "WARDKEY_INIT", value_parser = BoolishValueParser::new())]
    init: bool,
    /// Where the gate listens.
    #[arg(long, env = "WARDKEY_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where the admin API listens.
    #[arg(
        long,
        env = "WARDKEY_ADMIN_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8081"
    )]
    admin_listen: SocketAddr,
    /// Where verify, metrics and health listen. An address that is not a
    /// loopback one needs a token.
    #[arg(
        long,
        env = "WARDKEY_INTERNAL_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8082"
    )]
    internal_listen: SocketAddr,
    /// The file with the token that callers of the internal listener send as
    /// `authorization: Bearer …`.
    #[arg(long, env = "WARDKEY_INTERNAL_TOKEN_FILE", value_name = "FILE")]
    internal_token_file: Option<PathBuf>,
    /// The API behind the gate, http://HOST:PORT [default: the built-in
    /// simulated API].
    #[arg(long, env = "WARDKEY_UPSTREAM", value_name = "URL")]
    upstream: Option<UpstreamUrl>,
    /// The start of the paths that the gate serves.
    #[arg(
        long,
        env = "WARDKEY_GATE_PREFIX",
        value_name = "PATH",
        default_value = DEFAULT_PREFIX
    )]
    gate_prefix: String,
    /// A range of addresses whose `X-Forwarded-For` is believed. Repeat it, or
    /// separate with commas.
    #[arg(long, env = "WARDKEY_TRUSTED_PROXY", value_name = "CIDR", value_delimiter = ',')]
    trusted_proxy: Vec<IpNet>,
    /// The policy to put in force, whatever is stored: `wardkey policies` can
    /// put no other one there as long as this host runs [default: what was put
    /// in force last, and before that the standard policy].
    #[arg(long, env = "WARDKEY_POLICY", value_name = "FILE.wasm")]
    policy: Option<PathBuf>,
    /// Puts the file of --policy in force again whenever it has changed. For
    /// whoever writes rules; one that is not good leaves the one in force.
    #[arg(long, env = "WARDKEY_WATCH", value_parser = BoolishValueParser::new())]
    watch: bool,
    #[command(flatten)]
    trust: TrustArgs,
    /// Goes back to the policy that was in force before, by itself, when the one in
    /// force fails requests with keys of at least that many accounts [default: it
    /// only raises an alarm].
    #[arg(
        long,
        env = "WARDKEY_FALL_BACK",
        value_name = "ACCOUNTS",
        value_parser = clap::value_parser!(u32).range(i64::from(MIN_OWNERS)..=MAX_OWNERS as i64)
    )]
    fall_back: Option<u32>,
    /// Lets keys without limits call endpoints that the catalogue does not
    /// list. Without it, nobody can.
    #[arg(long, env = "WARDKEY_ALLOW_UNLISTED", value_parser = BoolishValueParser::new())]
    allow_unlisted: bool,
    /// How often an address may fail to authenticate in a minute before it is
    /// answered 429. Good keys behind it are not held up.
    #[arg(
        long,
        env = "WARDKEY_MAX_FAILED_AUTH_PER_MINUTE",
        value_name = "COUNT",
        default_value_t = DEFAULT_FAILED_AUTH_PER_MINUTE
    )]
    max_failed_auth_per_minute: u32,
    /// A mark before every secret (`acme` makes `acme_sk_live_…`), so that who
    /// scans for leaked keys can tell yours from others'.
    #[arg(long, env = "WARDKEY_BRAND", value_name = "WORD")]
    brand: Option<Brand>,
    /// For how many days the request log is kept [default: until it is full, at
    /// a million requests].
    #[arg(
        long,
        env = "WARDKEY_LOG_RETENTION_DAYS",
        value_name = "DAYS",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    log_retention_days: Option<u32>,
    /// Starts on a data directory that began as a copy: once, as somebody has
    /// looked which keys were ended since the copy was made, and are good again.
    #[arg(long, env = "WARDKEY_ACCEPT_BACKUP", value_parser = BoolishValueParser::new())]
    accept_backup: bool,
    #[command(flatten)]
    verification: VerificationConfig,
    #[arg(skip)]
    init_if_missing: bool,
}

impl ServeArgs {
    /// For bare `wardkey`, a first look: what is missing is made.
    pub(super) fn init_if_missing(self) -> Self {
        Self { init_if_missing: true, ..self }
    }
}

pub(super) async fn serve(args: ServeArgs) -> Result<Exit> {
    check(&args)?;
    // What can be wrong is looked at before anything is made.
    let internal = match &args.internal_token_file {
        Some(file) => InternalAccess::Token(read_token(file)?),
        None => InternalAccess::Loopback,
    };
    let delivery = args.verification.delivery()?;
    let (data_dir, is_new) = open_data_dir(&args).await?;
    let data_dir = Arc::new(data_dir);
    let gate = GateConfig {
        prefix: args.gate_prefix.clone(),
        brand: args.brand.clone(),
        trusted_proxies: args.trusted_proxy.clone(),
        allow_unlisted: args.allow_unlisted,
        max_failed_auth_per_minute: args.max_failed_auth_per_minute,
    };
    let trust = args.trust.trust();
    let settings = Settings {
        policy: args.policy.as_deref(),
        trust: trust.clone(),
        fall_back_after: args.fall_back,
        gate,
        api: args.upstream.clone().map_or(Api::Simulated, Api::Upstream),
        log_retention_days: args.log_retention_days,
        delivery,
    };
    let (host, engine) = start_host(&data_dir, settings).await?;
    host.keys().verifier.announce();
    check_backup(&args, &host).await?;
    if is_new || host.storage.list_accounts(None, 1).await?.is_empty() {
        let first = CreateAccount { name: FIRST_ACCOUNT.to_owned(), ..CreateAccount::default() };
        host.keys().create_account(&Ask::by(Actor::Platform), first).await?;
    }

    // Everything is bound before anything is served: a port that is taken must
    // not leave half a host behind.
    let gate = bind("--listen", args.listen).await?;
    let admin = bind("--admin-listen", args.admin_listen).await?;
    let internal_listener = bind("--internal-listen", args.internal_listen).await?;
    let socket = bind_socket(&data_dir)?;
    let address = gate.local_addr()?;
    let (admin_at, internal_at) = (admin.local_addr()?, internal_listener.local_addr()?);
    // From here on a signal means to finish first: until it is heard, it kills.
    let signals = Signals::listen()?;
    let (stop, stopped) = watch::channel(false);
    let mut serving = JoinSet::new();
    serving.spawn(server::serve(gate, host.gate(), stopped.clone()));
    let admin_routes = host.admin_router(AdminAccess::Credential(Arc::clone(&data_dir)));
    serving.spawn(server::serve(admin, admin_routes, stopped.clone()));
    let routes = host.internal_router(internal);
    serving.spawn(server::serve(internal_listener, routes, stopped.clone()));
    serving.spawn(server::serve(
        socket,
        host.admin_router(AdminAccess::Socket(Arc::clone(&data_dir))),
        stopped,
    ));
    host.start_worker();
    if let (Some(file), true) = (&args.policy, args.watch) {
        // Until the program ends.
        tokio::spawn(super::watch::watch(Arc::clone(&host), engine, trust, file.clone()));
    }
    let told = welcome(&args, &host, &data_dir, address, admin_at, internal_at, is_new).await;
    if let Err(err) = told {
        // It serves all the same.
        tracing::warn!("the welcome was not printed: {err:#}");
    }

    signals.wait().await;
    tracing::info!("stopping: requests that run are finished, and the log is written");
    let _ = stop.send(true);
    while serving.join_next().await.is_some() {}
    let finished = timeout(FINISH_PATIENCE, host.finish()).await;
    let _ = std::fs::remove_file(data_dir.socket());
    finished
        .context("storage did not take the end of the log in time")?
        .context("the last uses of keys were not written")?;
    Ok(Exit::Fine)
}

/// Checks what clap cannot see in one argument alone.
fn check(args: &ServeArgs) -> Result<()> {
    if !args.internal_listen.ip().is_loopback() && args.internal_token_file.is_none() {
        bail!(
            "--internal-listen {} is not a loopback address: whoever reaches it may ask about \
             keys. Give it --internal-token-file, or a loopback address",
            args.internal_listen,
        );
    }
    if args.watch && args.policy.is_none() {
        bail!("--watch looks at the file of --policy: give it one");
    }
    if args.fall_back.is_some() && args.policy.is_some() {
        bail!(
            "--fall-back goes back to what is stored, and the file of --policy is in force \
             whatever is stored: leave one of them away"
        );
    }
    let prefix = &args.gate_prefix;
    if !prefix.starts_with('/')
        || !prefix.ends_with('/')
        || crate::path::check_path(prefix).is_err()
    {
        bail!("--gate-prefix `{prefix}` must be a plain path that starts and ends with `/`");
    }
    Ok(())
}

fn read_token(file: &Path) -> Result<Digest> {
    /// The shortest token, in characters: 128 bits in hexadecimal.
    const MIN_TOKEN_CHARS: usize = 32;
    let token = crate::secret_file::read(file, "a token")?;
    let token = token.trim();
    if token.len() < MIN_TOKEN_CHARS {
        bail!("the token in `{}` has fewer than {MIN_TOKEN_CHARS} characters", file.display());
    }
    Ok(Digest::of(token))
}

async fn open_data_dir(args: &ServeArgs) -> Result<(DataDir, bool)> {
    let path = args.data_dir.clone();
    let (init, init_if_missing) = (args.init, args.init_if_missing);
    tokio::task::spawn_blocking(move || {
        let opened = if init { DataDir::create(&path) } else { open_when_free(&path) };
        match opened {
            Err(DataDirError::NotInitialized { .. }) if init_if_missing => {
                Ok((DataDir::create(&path)?, true))
            }
            Err(err) => Err(anyhow::Error::from(err)),
            Ok(data_dir) => Ok((data_dir, init)),
        }
    })
    .await?
}

/// Opens a data directory. Where somebody holds it and does not answer at the
/// socket, waits for a while: that is a host that starts or finishes its
/// requests, or a command.
pub(super) fn open_when_free(path: &Path) -> Result<DataDir, DataDirError> {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match DataDir::open(path) {
            Err(DataDirError::Locked { socket, .. })
                if std::os::unix::net::UnixStream::connect(&socket).is_err()
                    && Instant::now() < until =>
            {
                std::thread::sleep(LOCK_PAUSE);
            }
            opened => return opened,
        }
    }
}

/// Refuses a data directory that began as a copy, until somebody says that they
/// know: what was ended since is not ended in the copy.
async fn check_backup(args: &ServeArgs, host: &Host) -> Result<()> {
    let made_at = host.storage.backup_made_at().await?.map(timestamp);
    match (made_at, args.accept_backup) {
        (None, false) => Ok(()),
        (None, true) => {
            tracing::warn!(
                "--accept-backup is set, and there is nothing to accept: take it away, or the next \
                 copy is accepted unseen"
            );
            Ok(())
        }
        (Some(made_at), false) => bail!(
            "this data directory began as a copy that was made at {made_at}. What was done after \
             that is not in it: keys that were ended since are good again, and keys that were made \
             since are unknown. `wardkey keys list` and `wardkey audit list` show what is in it, \
             and `wardkey keys expire` ends what must not come back. Then start once with \
             --accept-backup"
        ),
        (Some(made_at), true) => {
            let active = count_active_keys(host).await?;
            let ask = Ask::by(Actor::Operator);
            let accepted = json!({ "made_at": made_at, "active_keys": active });
            host.keys.note(&ask, "host.backup_accepted", accepted).await?;
            host.storage.accept_backup().await?;
            tracing::warn!(
                "A COPY WAS ACCEPTED, which was made at {made_at}: {active} keys are active as they \
                 were then, also those that were ended since"
            );
            Ok(())
        }
    }
}

async fn count_active_keys(host: &Host) -> Result<usize> {
    let mut filter = KeyFilter {
        not_ended_at: Some(host.clock.now()),
        limit: crate::keys::MAX_LIST,
        ..KeyFilter::default()
    };
    let mut count = 0;
    loop {
        let page = host.storage.list_keys(filter.clone()).await?;
        count += page.len();
        match page.last() {
            Some(last) if page.len() == filter.limit => {
                filter.starting_after = Some(last.id.clone());
            }
            _ => return Ok(count),
        }
    }
}

/// How a host over a data directory is to be.
pub(super) struct Settings<'a> {
    /// `None`: what storage says is in force.
    pub(super) policy: Option<&'a Path>,
    /// What is demanded of that, and of what is stored.
    pub(super) trust: Trust,
    pub(super) fall_back_after: Option<u32>,
    pub(super) gate: GateConfig,
    pub(super) api: Api,
    pub(super) log_retention_days: Option<u32>,
    /// How verification codes reach people.
    pub(super) delivery: Delivery,
}

/// Puts a host together over a data directory. Also returns what loads its
/// policies.
pub(super) async fn start_host(
    data_dir: &Arc<DataDir>,
    settings: Settings<'_>,
) -> Result<(Arc<Host>, Arc<Engine>)> {
    let Settings { policy, trust, fall_back_after, gate, api, log_retention_days, delivery } =
        settings;
    let bytes = match policy {
        Some(path) => {
            let name = || format!("reading the policy `{}`", path.display());
            let bytes = std::fs::read(path).with_context(name)?;
            // Before it is parsed.
            read_signature(&trust, path)
                .and_then(|signed| Ok(trust.check_file(Digest::of_bytes(&bytes), signed.as_ref())?))
                .with_context(|| format!("the policy `{}` was refused", path.display()))?;
            Some(bytes)
        }
        None => None,
    };
    let is_policy_pinned = policy.is_some();
    let loading = match policy {
        Some(path) => format!("loading the policy `{}`", path.display()),
        None => "loading the standard policy".to_owned(),
    };
    let dir = Arc::clone(data_dir);
    let clock = Clock::system();
    let now = clock.now();
    let (storage, vault, engine, policy) = tokio::task::spawn_blocking(move || {
        let storage = SqliteStorage::open(&dir.database())?;
        let vault = dir.vault()?;
        let engine = Engine::new().map_err(anyhow::Error::from).context("starting the engine")?;
        let policy = ActivePolicy::load(&engine, bytes.as_deref()).context(loading.clone())?;
        if bytes.is_some() {
            try_policy(&policy.get(), now).context(loading)?;
        }
        Ok::<_, anyhow::Error>((storage, vault, engine, policy))
    })
    .await??;
    if let Some((key_id, sealed)) = storage.sealed_secrets(None, 1).await?.first() {
        vault.check(key_id, sealed)?;
    }
    let any = AuditFilter { after: Some(0), limit: 1, ..AuditFilter::default() };
    let audit_key = data_dir.audit_key(storage.list_audit(any).await?.is_empty())?;
    let engine = Arc::new(engine);
    let host = Host::start(Parts {
        storage: Arc::new(storage),
        engine: Arc::clone(&engine),
        policy: Arc::new(policy),
        is_policy_pinned,
        trust,
        fall_back_after,
        vault,
        audit_key,
        verifier: Verifier::new(delivery, clock.clone()),
        clock,
        log_retention_days,
        gate,
        api,
    })
    .await?;
    if data_dir.is_replacing_key()? {
        tracing::info!("going on with the replacement of the key-encryption key");
        host.keys().replace_key_encryption_key(&Ask::by(Actor::Platform), data_dir).await?;
    }
    Ok((host, engine))
}

async fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listening on {flag} {address}"))
}

/// Opens the socket on which the command line calls. Only its owner can open
/// it, as it lies in a folder that only its owner can enter.
fn bind_socket(data_dir: &DataDir) -> Result<UnixListener> {
    let path = data_dir.socket();
    // Left by a host that was killed: the lock says that none runs.
    let _ = std::fs::remove_file(&path);
    let socket = UnixListener::bind(&path)
        .with_context(|| format!("listening on the socket `{}`", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(socket)
}

/// The signals that ask to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn wait(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Tells a person what is there and what to do next.
async fn welcome(
    args: &ServeArgs,
    host: &Host,
    data_dir: &DataDir,
    gate: SocketAddr,
    admin: SocketAddr,
    internal: SocketAddr,
    is_new: bool,
) -> Result<()> {
    let backend = match &args.upstream {
        Some(_) => "your API",
        None => "the simulated API",
    };
    let folder = absolute(&args.data_dir);
    let operator = absolute(&data_dir.operator_file());
    print::line(format_args!("Wardkey {} is serving.", env!("CARGO_PKG_VERSION")))?;
    print::line("")?;
    print::line(format_args!(
        "  gate      http://{gate}{}  in front of {backend}",
        args.gate_prefix
    ))?;
    print::line(format_args!("  admin     http://{admin}  needs the operator credential"))?;
    print::line(format_args!("  internal  http://{internal}  verify, metrics, health"))?;
    print::line(format_args!("  data      {}", folder.display()))?;
    print::line(format_args!("  operator  {}", operator.display()))?;
    print::line("")?;
    // What an API of one's own has to offer is not for us to know; what a key
    // is, the gate itself tells.
    let simulated = args.upstream.is_none() && FIRST_REQUEST.starts_with(&args.gate_prefix);
    let first_request = match host.policy().find_endpoint("GET", FIRST_REQUEST) {
        Ok(Some(_)) if simulated => FIRST_REQUEST,
        _ => SELF_PATH,
    };
    if let Some(key) = first_key(host).await? {
        print::line(if is_new { "Your first request:" } else { "A request:" })?;
        print::line("")?;
        print::line(format_args!(
            "  curl http://{gate}{first_request} -u {}:",
            shown(args, host, &key).await?
        ))?;
        print::line("")?;
    }
    Ok(())
}

/// Returns the secret test key that came with the first account.
async fn first_key(host: &Host) -> Result<Option<KeyRecord>> {
    let filter =
        KeyFilter { mode: Some(Mode::Test), limit: crate::keys::MAX_LIST, ..KeyFilter::default() };
    let keys = host.storage.list_keys(filter).await?;
    // By its permissions and not its kind: which kinds there are is the
    // policy's to say.
    let now = host.clock.now();
    let usable = |key: &KeyRecord| {
        key.permissions == "*"
            && key.sealed_secret.is_some()
            && key.ends_at.is_none_or(|ends_at| now < ends_at)
    };
    Ok(keys.into_iter().rev().find(usable))
}

/// Returns the secret if a person is looking, and otherwise what shows it: the
/// output of a service ends in a log.
async fn shown(args: &ServeArgs, host: &Host, key: &KeyRecord) -> Result<String> {
    if std::io::stdout().is_terminal() {
        // Whoever looks on is who started it: the host by itself shows nobody a
        // secret.
        let revealed = host.keys().reveal(&Ask::by(Actor::Operator), &key.id).await?;
        return Ok(revealed.secret.map(|secret| secret.expose().to_owned()).unwrap_or_default());
    }
    let program = std::env::current_exe().unwrap_or_else(|_| "wardkey".into());
    Ok(format!(
        "\"$({} keys reveal {} --data-dir {})\"",
        quoted(&program),
        key.id,
        quoted(&absolute(&args.data_dir)),
    ))
}

pub(super) fn absolute(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Writes a path so that a shell reads it as one word.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}
