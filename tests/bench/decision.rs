fn main() {
    let engine = wardkey::engine::Engine::with(|p| {
        if let Ok(v) = std::env::var("KEEP") {
            p.linear_memory_keep_resident(v.parse().unwrap());
        }
        if let Ok(v) = std::env::var("TKEEP") {
            p.table_keep_resident(v.parse().unwrap());
        }
        if std::env::var("SCAN").is_ok() {
            p.pagemap_scan(wasmtime::Enabled::Auto);
        }
    })
    .unwrap();
    let bytes = std::fs::read(env!("WARDKEY_STANDARD_POLICY")).unwrap();
    let t = std::time::Instant::now();
    let policy = engine.load(&bytes).unwrap();
    println!("load {:?} bytes {}", t.elapsed(), bytes.len());
    use wardkey::engine::contract::{
        Credential, Ipv4Net, Key, Mode, Request, Source, WellFormedCredential,
    };
    let digest = wardkey::secret::Digest::of("x");
    let perms: String = if std::env::var("BIG").is_ok() {
        policy
            .permissions()
            .unwrap()
            .iter()
            .take(150)
            .map(|p| p.name.clone())
            .collect::<Vec<_>>()
            .join(" ")
    } else {
        "charge_read".into()
    };
    let n = if std::env::var("BIG").is_ok() { 20 } else { 0 };
    let key = std::sync::Arc::new(Key {
        id: "key_123456789012345678901234".into(),
        account: "acct_123456789012345678901234".into(),
        mode: Mode::Test,
        kind: "restricted".into(),
        origin: "user".into(),
        created_at: 1,
        ends_at: None,
        restored_at: None,
        money_moved_at: None,
        permissions: perms,
        connect_permissions: "".into(),
        ipv4_nets: (0..n).map(|i| Ipv4Net { address: 10 + i, prefix_length: 32 }).collect(),
        attributes: vec![],
    });
    let req = Request {
        credential: Credential::WellFormed(WellFormedCredential {
            prefix: "rk_test_",
            masked: "rk_test_****************1234",
            digest: digest.to_words(),
        }),
        method: "GET",
        path: "/v1/charges/ch_123",
        source: Source::Ipv4(10),
        context: None,
        account: None,
        api_version: Some("2026-01-01"),
        now: 1000,
        attributes: &[],
    };
    let mut facts = wardkey::facts::Facts::default();
    facts.add_key(digest, Some(key.clone()));
    let mut f = facts;
    let mut best = std::time::Duration::MAX;
    for _ in 0..300 {
        let t = std::time::Instant::now();
        const N: u32 = 500;
        for _ in 0..N {
            let (f2, r) = policy.authorize(&req, f);
            f = f2;
            let r = r.unwrap();
            std::hint::black_box(&r);
        }
        best = best.min(t.elapsed() / N);
    }
    println!("fresh best {best:?}");
    println!("{:?}", policy.authorize(&req, f).1);
    let mut facts = wardkey::facts::Facts::default();
    facts.add_key(digest, Some(key));
    let mut re = policy.reused(facts).unwrap();
    for _ in 0..10 {
        re.authorize(&req).unwrap();
    }
    let t = std::time::Instant::now();
    for _ in 0..30 {
        re.authorize(&req).unwrap();
    }
    println!("reused {:?}", t.elapsed() / 30);
}
