//! LIST: which version the items are of, paging, and waiting for a version that is to come.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::ApiError;
use super::faults::Fault;
use super::query::{Query, Version};
use super::resource::Resource;
use super::server::Shared;
use super::store::Key;

/// A page of a collection.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) items: Vec<Arc<Value>>,
    pub(crate) rv: u64,
    pub(crate) next: Option<String>,
    pub(crate) remaining: Option<usize>,
}

/// What a continuation token holds; clients see it as hex.
#[derive(Serialize, Deserialize)]
struct Token {
    rv: u64,
    /// Of one namespace only.
    narrow: bool,
    namespace: String,
    name: String,
}

impl Token {
    fn encode(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        json.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn decode(text: &str) -> Option<Self> {
        let digits: Vec<u32> = text.chars().map(|c| c.to_digit(16)).collect::<Option<_>>()?;
        let bytes: Vec<u8> = digits
            .chunks_exact(2)
            .filter_map(|pair| match pair {
                [high, low] => u8::try_from(high * 16 + low).ok(),
                _ => None,
            })
            .collect();
        serde_json::from_slice(&bytes).ok()
    }

    /// Where to go on. The real server's tokens hold the last key below the path's own prefix and so
    /// mean something else below another one: a Service's name is then a namespace's.
    fn after(self, namespace: Option<&str>) -> Key {
        match (self.narrow, namespace) {
            (true, None) => Key::new(&self.name, ""),
            (true, Some(own)) => Key::new(own, &self.name),
            (false, Some(own)) if !self.namespace.is_empty() => {
                Key::new(own, &format!("{}/{}", self.namespace, self.name))
            }
            (false, _) => Key::new(&self.namespace, &self.name),
        }
    }
}

/// Waits until the store has reached a version.
///
/// # Errors
/// 504 when it does not within the server's patience (K6).
pub(crate) async fn wait_for(shared: &Shared, rv: u64) -> Result<(), ApiError> {
    let mut versions = shared.store.versions();
    let reached =
        tokio::time::timeout(shared.options.future_wait, versions.wait_for(|now| *now >= rv)).await;
    match reached {
        Ok(Ok(_)) => Ok(()),
        _ => Err(ApiError::too_large(rv, shared.store.version())),
    }
}

/// Reads a collection; `namespace` none for all.
///
/// # Errors
/// 400 and 422 for queries that contradict themselves, 410 for a version of the past that is
/// forgotten, 504 for one of the future.
pub(crate) async fn list(
    shared: &Shared,
    resource: &'static Resource,
    namespace: Option<&str>,
    query: &Query,
    faults: &[Fault],
) -> Result<Page, ApiError> {
    let selector = query.selector(resource)?;
    let version = query.version()?;
    let rule = query.text("resourceVersionMatch");
    let token = query.text("continue");
    let limit = query.number("limit")?.filter(|l| *l > 0);
    if !token.is_empty() && matches!(version, Version::At(_)) {
        return Err(ApiError::bad_request(
            "specifying resource version is not allowed when using continue",
        ));
    }
    if let Version::At(rv) = version {
        if faults.contains(&Fault::TooLargeVersion) {
            return Err(ApiError::too_large(rv, shared.store.version()));
        }
        wait_for(shared, rv).await?;
    }
    let mut after: Option<Key> = None;
    let narrow = namespace.is_some();
    let exact = match (version, rule) {
        _ if !token.is_empty() => {
            let token = Token::decode(token)
                .ok_or_else(|| ApiError::bad_request("continue key is not valid"))?;
            let rv = token.rv;
            after = Some(token.after(namespace));
            Some(rv)
        }
        (Version::At(rv), "Exact") => Some(rv),
        // K1: with a limit and no rule, a version means exactly that one.
        (Version::At(rv), "") if limit.is_some() => Some(rv),
        _ => None,
    };
    let (table, rv) = read(shared, resource, version, exact);
    let Some(table) = table else {
        return Err(forgotten(shared, exact.unwrap_or(0), narrow, after));
    };
    if faults.contains(&Fault::ContinueExpired) && after.is_some() {
        return Err(forgotten(shared, exact.unwrap_or(0), narrow, after));
    }
    // The watch cache answers RV=0 with everything.
    let limit = limit.filter(|_| version != Version::Any).and_then(|l| usize::try_from(l).ok());
    if faults.contains(&Fault::EmptyPage) && after.is_none() && limit.is_some() {
        let next = Token { rv, narrow, namespace: String::new(), name: String::new() }.encode();
        return Ok(Page { items: Vec::new(), rv, next: Some(next), remaining: None });
    }
    let mut matching = table
        .iter()
        .filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after))
        .filter(|(key, object)| {
            namespace.is_none_or(|n| n == key.namespace) && selector.matches(object)
        });
    let mut items = Vec::new();
    let mut last = None;
    while limit.is_none_or(|limit| items.len() < limit) {
        let Some((key, object)) = matching.next() else { break };
        items.push(Arc::clone(object));
        last = Some(key.clone());
    }
    let remaining = matching.count();
    let next = last
        .filter(|_| remaining > 0)
        .map(|key| Token { rv, narrow, namespace: key.namespace, name: key.name }.encode());
    let remaining = (remaining > 0 && selector.is_empty()).then_some(remaining);
    Ok(Page { items, rv, next, remaining })
}

type Table = BTreeMap<Key, Arc<Value>>;

fn read(
    shared: &Shared,
    resource: &'static Resource,
    version: Version,
    exact: Option<u64>,
) -> (Option<Table>, u64) {
    shared.store.with(|state| match exact {
        Some(rv) => (state.at(resource, rv), rv),
        None => {
            if version == Version::Unset {
                // A quorum read also tells the watch cache how far the store is (K4).
                state.catch_up(resource.table);
            }
            let rv =
                if version == Version::Unset { state.rv() } else { state.reached(resource.table) };
            let rv = if let Version::At(asked) = version { rv.max(asked) } else { rv };
            (Some(state.all(resource).map(|(k, o)| (k.clone(), Arc::clone(o))).collect()), rv)
        }
    })
}

/// 410; for a continuation with a token that goes on from the present (K14).
fn forgotten(shared: &Shared, rv: u64, narrow: bool, after: Option<Key>) -> ApiError {
    let Some(after) = after else { return ApiError::expired(rv, shared.store.version()) };
    let mut error = ApiError::new(
        410,
        "Expired",
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results.",
    );
    let (rv, Key { namespace, name }) = (shared.store.version(), after);
    let token = Token { rv, narrow, namespace, name };
    error.next = Some(token.encode());
    error
}
