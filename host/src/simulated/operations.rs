//! The verbs of the API, the same for every resource.

use axum::http::Method;
use serde_json::{Map, Value, json};
use subtle::ConstantTimeEq;

use super::{
    Call,
    answer::{Refused, SimulatedError, invalid},
    fields,
    resources::{Collection, Parent, Place, Singleton, locate, object_fields},
};
use crate::storage::{AccountRecord, Mode, ObjectRecord, Page, Storage, StorageError};

/// A page without `limit`, as in Stripe's API.
const DEFAULT_LIMIT: usize = 10;

/// The largest page, as in Stripe's API; more is refused.
const MAX_LIMIT: usize = 100;

/// Objects that one list reads to find those that its filters ask for. Beyond,
/// the list is refused: a page that is silently incomplete would be a lie.
const MAX_FILTERED: usize = 5_000;

/// An id that the caller chooses. Longer ones are refused.
const MAX_OWN_ID_BYTES: usize = 64;

/// One request at work.
pub(super) struct Operation<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) call: &'a Call,
}

impl Operation<'_> {
    /// Does what the request asks for and returns the answer's body.
    pub(super) async fn run(&self) -> Refused<Value> {
        let Some(place) = locate(&self.call.path) else {
            return Err(self.unknown_url());
        };
        // Where no object is named there is none whose client secret would fit.
        // Making one is left: a front end makes tokens and payment methods.
        let is_making = self.call.method == Method::POST && matches!(place, Place::Collection(_));
        if self.call.is_front_end
            && !is_making
            && !matches!(place, Place::Object(..) | Place::Action(..))
        {
            return Err(self.unknown_url());
        }
        match (&self.call.method, place) {
            (&Method::GET, Place::Singleton(one)) => self.singleton(one).await.map(Value::Object),
            (&Method::POST, Place::Singleton(one)) if one.is_writable => {
                self.update_singleton(one).await
            }
            (&Method::GET, Place::OwnAccount) => {
                let accounts = Collection::accounts();
                let own = self.find(&accounts, &self.call.account, None).await?;
                Ok(own.body)
            }
            (&Method::GET, Place::Collection(all)) => self.list(&all, Paging::List).await,
            (&Method::GET, Place::Search(all)) => self.list(&all, Paging::Search).await,
            (&Method::POST, Place::Collection(all)) => self.create(&all).await,
            (&Method::GET, Place::Object(all, id)) => {
                let object = self.find_allowed(&all, &id).await?;
                Ok(self.shown(object.body))
            }
            (&Method::POST, Place::Object(all, id)) => self.change(&all, &id, Map::new()).await,
            (&Method::POST, Place::Action(all, id, action)) => {
                let effect = all.effect_of(&action).unwrap_or_default();
                self.change(&all, &id, effect).await
            }
            (&Method::DELETE, Place::Object(all, id)) => match all.effect_of("delete") {
                Some(effect) => self.change(&all, &id, effect).await,
                None => self.delete(&all, &id).await,
            },
            _ => Err(self.unknown_url()),
        }
    }

    async fn create(&self, all: &Collection) -> Refused<Value> {
        self.require_parent(all).await?;
        let mut params = self.call.params.clone();
        let own_id = match all.takes_own_id() {
            true => params.remove("id"),
            false => None,
        };
        let id = match own_id {
            Some(own_id) => self.own_id(all, &own_id).await?,
            None => all.mint_id(self.call.mode),
        };
        // The front end's rule is about changing what a server made.
        let mut params = fields::typed(params, false)?;
        self.require_references(&params).await?;
        let mut body = all.new_object(&id, self.call.mode, self.call.now);
        if params.remove("confirm") == Some(Value::Bool(true)) {
            body.extend(all.effect_of("confirm").unwrap_or_default());
        }
        fields::merge(&mut body, params)?;
        self.put(ObjectRecord {
            id,
            collection: all.path.clone(),
            created_at: self.call.now,
            body: Value::Object(body),
        })
        .await
    }

    /// Updates an object with the request's parameters and an action's effect.
    async fn change(
        &self,
        all: &Collection,
        id: &str,
        effect: Map<String, Value>,
    ) -> Refused<Value> {
        let record = self.find_allowed(all, id).await?;
        let mut params = self.call.params.clone();
        // Proves who asks and is no change.
        params.remove("client_secret");
        let params = fields::typed(params, self.call.is_front_end)?;
        self.require_references(&params).await?;
        let mut body = fields_of(&record)?;
        fields::merge(&mut body, params)?;
        body.extend(effect);
        let body = Value::Object(body);
        let changed = self.put(ObjectRecord { body, ..record }).await?;
        Ok(self.shown(changed))
    }

    async fn delete(&self, all: &Collection, id: &str) -> Refused<Value> {
        self.find_allowed(all, id).await?;
        let Call { account, mode, .. } = self.call;
        // Not there after all if it is an account of the host and no object.
        if !self.storage.delete_object(account, *mode, id).await? {
            return Err(self.not_found(all, id, None, None));
        }
        Ok(json!({ "id": id, "object": all.object, "deleted": true }))
    }

    async fn list(&self, all: &Collection, paging: Paging) -> Refused<Value> {
        self.require_parent(all).await?;
        let (mut page, filters) = self.read_paging(all, &paging).await?;
        let limit = page.limit;
        let backwards = page.ending_before.is_some();
        let mut found: Vec<ObjectRecord> = Vec::new();
        let mut read = 0;
        let has_more = loop {
            let Call { account, mode, .. } = self.call;
            let (records, has_more) =
                self.storage.list_objects(account, *mode, &all.path, page.clone()).await?;
            read += records.len();
            // The next page lies behind the last one, seen from the cursor.
            let edge = if backwards { records.first() } else { records.last() };
            let edge = edge.map(|record| record.id.clone());
            let fits = |record: &ObjectRecord| {
                filters.iter().all(|(name, value)| record.body[name.as_str()] == *value)
            };
            let records = records.into_iter().filter(fits);
            if backwards {
                found.splice(0..0, records);
            } else {
                found.extend(records);
            }
            if found.len() > limit {
                break true;
            }
            // One more than asked for is needed to know whether more follow,
            // unless nothing is filtered out and storage knows.
            if !has_more || edge.is_none() || (filters.is_empty() && found.len() == limit) {
                break has_more;
            }
            if read >= MAX_FILTERED {
                return Err(invalid(None, "Too many objects to filter this list."));
            }
            page.limit = MAX_LIMIT;
            if backwards {
                page.ending_before = edge;
            } else {
                page.starting_after = edge;
            }
        };
        if backwards {
            found.drain(..found.len().saturating_sub(limit));
        } else {
            found.truncate(limit);
        }
        Ok(paging.envelope(found, has_more, &self.call.path))
    }

    /// Reads which part of a list is asked for, and the references that narrow
    /// it (`customer=cus_x`). Other filters of Stripe's are not simulated.
    async fn read_paging(
        &self,
        all: &Collection,
        paging: &Paging,
    ) -> Refused<(Page, Vec<(String, Value)>)> {
        let params = &self.call.params;
        let mut page = Page { limit: DEFAULT_LIMIT, ..Page::default() };
        if let Some(limit) = params.get("limit") {
            page.limit = usize::try_from(fields::integer("limit", limit)?)
                .ok()
                .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                .ok_or_else(|| SimulatedError::Invalid {
                    code: Some("parameter_invalid_integer"),
                    param: Some("limit".to_owned()),
                    message: format!("The limit is a number from 1 to {MAX_LIMIT}."),
                })?;
        }
        page.starting_after = self.read_cursor(all, paging.cursor()).await?;
        page.ending_before = self.read_cursor(all, "ending_before").await?;
        if page.starting_after.is_some() && page.ending_before.is_some() {
            return Err(invalid(
                Some("ending_before"),
                "Only one of a starting and an ending cursor can be given.",
            ));
        }
        let mut filters: Vec<_> = params
            .iter()
            .filter(|(name, _)| Collection::referenced_by(name).is_some())
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let narrowing = all.narrowing();
        filters.extend(narrowing.map(|(name, id)| (name.to_owned(), Value::from(id))));
        Ok((page, filters))
    }

    async fn read_cursor(&self, all: &Collection, name: &str) -> Refused<Option<String>> {
        let Some(cursor) = self.call.params.get(name) else {
            return Ok(None);
        };
        let id = cursor.as_str().ok_or_else(|| invalid(Some(name), "A cursor is one id."))?;
        self.find(all, id, Some(name)).await?;
        Ok(Some(id.to_owned()))
    }

    async fn singleton(&self, one: &Singleton) -> Refused<Map<String, Value>> {
        let Call { account, mode, .. } = self.call;
        let mut body = match self.storage.find_object(account, *mode, one.path).await? {
            Some(stored) => fields_of(&stored)?,
            None => object_fields((one.initial)()),
        };
        body.insert("livemode".to_owned(), (*mode == Mode::Live).into());
        Ok(body)
    }

    async fn update_singleton(&self, one: &Singleton) -> Refused<Value> {
        let mut body = self.singleton(one).await?;
        let params = fields::typed(self.call.params.clone(), false)?;
        fields::merge(&mut body, params)?;
        self.put(ObjectRecord {
            id: one.path.to_owned(),
            collection: one.path.to_owned(),
            created_at: self.call.now,
            body: Value::Object(body),
        })
        .await
    }

    async fn put(&self, record: ObjectRecord) -> Refused<Value> {
        let Call { account, mode, .. } = self.call;
        let body = record.body.clone();
        self.storage.put_object(account, *mode, record).await?;
        Ok(body)
    }

    /// Returns the object if this caller may work on it. To a front end without
    /// the right client secret it looks as if it were not there.
    async fn find_allowed(&self, all: &Collection, id: &str) -> Refused<ObjectRecord> {
        self.require_parent(all).await?;
        let record = self.find(all, id, None).await?;
        if self.call.is_front_end && !self.has_client_secret(&record) {
            return Err(self.not_found(all, id, None, None));
        }
        Ok(record)
    }

    fn has_client_secret(&self, record: &ObjectRecord) -> bool {
        let given = self.call.params.get("client_secret").and_then(Value::as_str);
        let secret = record.body["client_secret"].as_str();
        match (given, secret) {
            (Some(given), Some(secret)) => given.as_bytes().ct_eq(secret.as_bytes()).into(),
            // An object that has no secret is for servers only.
            _ => false,
        }
    }

    /// Returns an object of the caller's account and mode. `param` is the
    /// parameter that names it, `None` if the path does.
    async fn find(&self, all: &Collection, id: &str, param: Option<&str>) -> Refused<ObjectRecord> {
        let mode = self.call.mode;
        if let Some(record) = self.find_in(all, id, mode).await? {
            return Ok(record);
        }
        if all.path == "accounts"
            && let Some(account) = self.find_account(id).await?
        {
            return Ok(self.account_object(all, account));
        }
        let other = match mode {
            Mode::Test => Mode::Live,
            Mode::Live => Mode::Test,
        };
        // A front end shall not learn that an object exists, in either mode.
        let wrong_mode = match self.call.is_front_end {
            true => None,
            false => self.find_in(all, id, other).await?.map(|_| mode),
        };
        Err(self.not_found(all, id, param, wrong_mode))
    }

    async fn find_in(
        &self,
        all: &Collection,
        id: &str,
        mode: Mode,
    ) -> Refused<Option<ObjectRecord>> {
        let found = self.storage.find_object(&self.call.account, mode, id).await?;
        // A charge's id does not name a customer.
        Ok(found.filter(|record| {
            let is_shown = |(name, id): (&str, &str)| record.body[name] == id;
            record.collection == all.path && all.narrowing().is_none_or(is_shown)
        }))
    }

    /// Returns an account of the host's, the caller's own or one connected to it.
    async fn find_account(&self, id: &str) -> Refused<Option<AccountRecord>> {
        let caller = &self.call.account;
        let found = self.storage.find_accounts(vec![id.to_owned()]).await?;
        Ok(found
            .into_iter()
            .flatten()
            .find(|found| found.id == *caller || found.platform.as_ref() == Some(caller)))
    }

    fn account_object(&self, all: &Collection, account: AccountRecord) -> ObjectRecord {
        let mut body = all.new_object(&account.id, self.call.mode, account.created_at);
        body.insert("business_profile".to_owned(), json!({ "name": account.name }));
        ObjectRecord {
            id: account.id,
            collection: all.path.clone(),
            created_at: account.created_at,
            body: Value::Object(body),
        }
    }

    async fn require_parent(&self, all: &Collection) -> Refused<()> {
        match &all.parent {
            None => Ok(()),
            Some(Parent { collection, id }) => self.find(collection, id, None).await.map(|_| ()),
        }
    }

    async fn require_references(&self, params: &Map<String, Value>) -> Refused<()> {
        for reference in fields::references(params)? {
            self.find(&reference.collection, &reference.id, Some(&reference.param)).await?;
        }
        Ok(())
    }

    async fn own_id(&self, all: &Collection, given: &Value) -> Refused<String> {
        let id = given
            .as_str()
            .filter(|id| (1..=MAX_OWN_ID_BYTES).contains(&id.len()))
            .filter(|id| id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)))
            .ok_or_else(|| {
                invalid(
                    Some("id"),
                    format!("An id is 1 to {MAX_OWN_ID_BYTES} letters, digits, `_` or `-`."),
                )
            })?;
        let Call { account, mode, .. } = self.call;
        // In any collection: ids are unique within an account and mode.
        match self.storage.find_object(account, *mode, id).await? {
            None => Ok(id.to_owned()),
            Some(_) => Err(SimulatedError::Invalid {
                code: Some("resource_already_exists"),
                param: Some("id".to_owned()),
                message: format!("A {} with this id cannot be made: the id is taken.", all.object),
            }),
        }
    }

    /// Returns what this caller sees of an object.
    fn shown(&self, object: Value) -> Value {
        match object {
            Value::Object(fields) if self.call.is_front_end => {
                Value::Object(fields::for_front_end(fields))
            }
            object => object,
        }
    }

    fn not_found(
        &self,
        all: &Collection,
        id: &str,
        param: Option<&str>,
        wrong_mode: Option<Mode>,
    ) -> SimulatedError {
        SimulatedError::NotFound {
            object: all.object.clone(),
            id: id.to_owned(),
            param: param.map(str::to_owned),
            wrong_mode,
        }
    }

    fn unknown_url(&self) -> SimulatedError {
        SimulatedError::UnknownUrl {
            method: self.call.method.to_string(),
            path: self.call.path.clone(),
        }
    }
}

/// The two shapes of a list.
enum Paging {
    List,
    Search,
}

impl Paging {
    /// The parameter that says where a page starts.
    fn cursor(&self) -> &'static str {
        match self {
            Self::List => "starting_after",
            Self::Search => "page",
        }
    }

    fn envelope(&self, found: Vec<ObjectRecord>, has_more: bool, url: &str) -> Value {
        let last = found.last().map(|record| record.id.clone());
        let data: Vec<Value> = found.into_iter().map(|record| record.body).collect();
        match self {
            Self::List => {
                json!({ "object": "list", "data": data, "has_more": has_more, "url": url })
            }
            Self::Search => json!({
                "object": "search_result",
                "data": data,
                "has_more": has_more,
                "next_page": last.filter(|_| has_more),
                "url": url,
            }),
        }
    }
}

fn fields_of(record: &ObjectRecord) -> Refused<Map<String, Value>> {
    match &record.body {
        Value::Object(fields) => Ok(fields.clone()),
        _ => Err(SimulatedError::Storage(StorageError::Damaged {
            id: record.id.clone(),
            source: "not an object".into(),
        })),
    }
}
