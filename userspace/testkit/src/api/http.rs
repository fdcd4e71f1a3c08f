//! Requests to answers: credentials, faults, then reading or writing.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use rand::seq::SliceRandom;
use serde_json::{Value, json};

use super::delete::{self, Deleted};
use super::discovery;
use super::error::{ApiError, FieldError};
use super::faults::{Fault, Verb};
use super::json::{set, str_at};
use super::list::{self, Page};
use super::patch::Kind;
use super::query::{Query, Version};
use super::render::Form;
use super::resource::Resource;
use super::server::{Seen, Shared};
use super::store::Key;
use super::stream::{Lines, spoil};
use super::target::{Asked, Target, in_known_group, verb_of};
use super::watch::Watch;
use super::write::{self, Unknown, WriteOptions};

/// The largest body taken, as the real server's limit on requests.
const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

fn json_response(code: u16, content_type: &str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = axum::http::StatusCode::from_u16(code).unwrap_or_default();
    if let Ok(value) = HeaderValue::from_str(content_type) {
        response.headers_mut().insert("content-type", value);
    }
    response
}

fn value_response(code: u16, value: &Value) -> Response<Body> {
    json_response(code, "application/json", value.to_string())
}

fn refusal(error: &ApiError) -> Response<Body> {
    let mut response = value_response(error.code, &error.status());
    if let Some(seconds) = error.retry_after_s {
        response.headers_mut().insert("retry-after", HeaderValue::from(seconds));
    }
    response
}

/// Answers one request.
pub(crate) async fn answer(
    shared: Arc<Shared>,
    request: Request<Body>,
) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    Ok(match respond(&shared, &parts.method, &parts.uri, &parts.headers, body).await {
        Ok(response) => response,
        Err(error) => refusal(&error),
    })
}

async fn respond(
    shared: &Arc<Shared>,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let path: Vec<&str> = uri.path().split('/').filter(|p| !p.is_empty()).collect();
    let query = Query::parse(uri)?;
    let target = Target::parse(&path);
    let verb = verb_of(method, target.as_ref(), &query);
    let plural = target.as_ref().map_or("", |t| t.resource.plural);
    let agent = headers.get("user-agent").and_then(|v| v.to_str().ok()).unwrap_or_default();
    shared.note(Seen {
        verb,
        method: method.to_string(),
        resource: plural.to_owned(),
        path: uri.path().to_owned(),
        query: uri.query().unwrap_or_default().to_owned(),
        user_agent: agent.to_owned(),
    });
    let asked = Asked { method, path: uri.path(), target: target.as_ref(), query: &query };
    shared.check_credentials(headers, asked)?;
    let faults = shared.faults.strike(plural, verb);
    misbehave(shared, &faults, asked, verb).await?;

    let Some(target) = target else {
        let accept = headers.get("accept").and_then(|v| v.to_str().ok()).unwrap_or_default();
        if matches!(path.as_slice(), ["healthz" | "livez" | "readyz", ..]) {
            return Ok(json_response(200, "text/plain; charset=utf-8", "ok"));
        }
        let Some((value, content_type)) = discovery::answer(&path, accept) else {
            if in_known_group(&path) {
                return Err(ApiError::no_such_path());
            }
            // No Status: what no API answers, the mux does.
            let text = "404 page not found\n";
            return Ok(json_response(404, "text/plain; charset=utf-8", text));
        };
        return Ok(json_response(200, content_type, value.to_string()));
    };
    let form = Form::accepted(headers)?;
    match (method.as_str(), &target.name) {
        ("GET", None) if query.flag("watch") => watch(shared, &target, &query, form, faults),
        ("GET", None) => {
            query.check_list_options()?;
            let namespace = target.namespace.as_deref();
            let mut page = list::list(shared, target.resource, namespace, &query, &faults).await?;
            spoil_page(&mut page, &faults);
            Ok(json_response(200, "application/json", form.list(target.resource, &page)))
        }
        ("GET", Some(name)) => {
            // One object is not watched by its path.
            if let Version::At(rv) = query.late_version()? {
                list::wait_for(shared, rv).await?;
            }
            let object = shared.store.with(|state| state.get(target.resource, &target.key()));
            let object = object.ok_or_else(|| ApiError::not_found(target.resource, name))?;
            Ok(value_response(200, &form.one(target.resource, &object)))
        }
        _ => {
            let body = to_bytes(body, MAX_BODY_BYTES).await.map_err(|_| {
                ApiError::new(
                    413,
                    "RequestEntityTooLarge",
                    "Request entity too large: limit is 3145728",
                )
            })?;
            write(shared, method, &target, &query, headers, &body, form)
        }
    }
}

/// The faults that need nothing of the request's own work.
async fn misbehave(
    shared: &Shared,
    faults: &[Fault],
    asked: Asked<'_>,
    verb: Verb,
) -> Result<(), ApiError> {
    for fault in faults {
        match fault {
            Fault::Slow(time) => tokio::time::sleep(*time).await,
            Fault::NoAnswer => std::future::pending().await,
            Fault::InternalError => {
                return Err(ApiError::new(
                    500,
                    "InternalError",
                    "Internal error occurred: etcdserver: no leader",
                ));
            }
            Fault::TooManyRequests(seconds) => {
                let message =
                    "the server has received too many requests and has asked us to try again later";
                let mut error = ApiError::new(429, "TooManyRequests", message);
                error.retry_after_s = Some(*seconds);
                error.details = json!({"retryAfterSeconds": seconds});
                return Err(error);
            }
            Fault::Unauthorized => return Err(ApiError::new(401, "Unauthorized", "Unauthorized")),
            Fault::Forbidden => {
                return Err(asked.forbidden("system:anonymous"));
            }
            Fault::Gone => return Err(ApiError::expired(0, shared.store.version())),
            Fault::RefuseWatchList if verb == Verb::WatchList => {
                return Err(ApiError::invalid_options(
                    "ListOptions",
                    &[FieldError::forbidden(
                        "sendInitialEvents",
                        "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
                    )],
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

fn spoil_page(page: &mut Page, faults: &[Fault]) {
    if faults.contains(&Fault::EmptyList) {
        page.items.clear();
    }
    if faults.contains(&Fault::Shuffle) {
        page.items.shuffle(&mut rand::rng());
    }
    if faults.contains(&Fault::Undecodable)
        && let Some(first) = page.items.first_mut()
    {
        spoil(Arc::make_mut(first));
    }
}

fn watch(
    shared: &Arc<Shared>,
    target: &Target,
    query: &Query,
    form: Form,
    faults: Vec<Fault>,
) -> Result<Response<Body>, ApiError> {
    let watch = Watch::new(target.resource, target.namespace.as_deref(), query, form)?;
    let (lines, body) = Lines::new(&faults);
    tokio::spawn(watch.run(Arc::clone(shared), faults, lines));
    Ok(json_response(200, "application/json", body))
}

fn manager(query: &Query, headers: &HeaderMap, kind: Option<Kind>) -> String {
    let given = query.text("fieldManager");
    if !given.is_empty() || kind == Some(Kind::Apply) {
        return given.to_owned();
    }
    let agent = headers.get("user-agent").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let name = agent.split('/').next().unwrap_or_default();
    if name.is_empty() { "unknown".to_owned() } else { name.to_owned() }
}

fn write(
    shared: &Shared,
    method: &Method,
    target: &Target,
    query: &Query,
    headers: &HeaderMap,
    body: &Bytes,
    form: Form,
) -> Result<Response<Body>, ApiError> {
    let content_type =
        headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or("application/json");
    let value: Value = if body.is_empty() {
        Value::Null
    } else {
        if !content_type.contains("json") && !content_type.contains("apply-patch+yaml") {
            let message = format!(
                "the body of the request was in an unknown format - accepted media types include: application/json (was {content_type})"
            );
            return Err(ApiError::new(415, "UnsupportedMediaType", message).bare());
        }
        serde_json::from_slice(body).map_err(|error| {
            ApiError::bad_request(format!("couldn't get version/kind; json parse error: {error}"))
        })?
    };
    let kind = (*method == Method::PATCH).then(|| Kind::of(content_type)).flatten();
    let options = WriteOptions {
        manager: manager(query, headers, kind),
        dry_run: query.text("dryRun") == "All",
        force: query.flag("force"),
        unknown: match query.text("fieldValidation") {
            "Strict" => Unknown::Refused,
            "Ignore" => Unknown::Dropped,
            _ => Unknown::Warned,
        },
        subresource: if target.subresource == "status" {
            "status".to_owned()
        } else {
            String::new()
        },
        direct: false,
    };
    let resource = target.resource;
    let key = target.key();
    let answer = |code: u16, object: &Arc<Value>| value_response(code, &form.one(resource, object));
    match (method.as_str(), &target.name, target.subresource.as_str()) {
        ("POST", None, _) => {
            let namespace = namespace_for_create(target, &value)?;
            let written = shared
                .store
                .with(|state| write::create(state, resource, &namespace, value, &options))?;
            Ok(warn(answer(201, &written.object), &written.warnings))
        }
        ("POST", Some(_), "binding") => {
            let node = json!({"spec": {"nodeName": str_at(&value, "/target/name")}});
            let options = WriteOptions { subresource: String::new(), ..options };
            shared
                .store
                .with(|state| write::patch(state, resource, &key, Kind::Merge, &node, &options))?;
            Ok(value_response(201, &success(resource, &key.name)))
        }
        ("PUT", Some(_), "" | "status" | "finalize") => {
            let written = shared
                .store
                .with(|state| write::replace(state, resource, &key, value, &options))?;
            Ok(warn(
                answer(if written.created { 201 } else { 200 }, &written.object),
                &written.warnings,
            ))
        }
        ("PATCH", Some(_), _) => {
            let kind = kind.ok_or_else(|| {
                let message =
                    format!("the body of the request was in an unknown format: {content_type}");
                ApiError::new(415, "UnsupportedMediaType", message).bare()
            })?;
            let written = shared
                .store
                .with(|state| write::patch(state, resource, &key, kind, &value, &options))?;
            let code = if written.created { 201 } else { 200 };
            Ok(warn(answer(code, &written.object), &written.warnings))
        }
        ("DELETE", Some(name), _) => {
            let grace = query.number("gracePeriodSeconds")?;
            let deleted = shared.store.with(|state| {
                delete::delete(state, resource, &key, &value, grace, options.dry_run)
            })?;
            Ok(match deleted {
                Deleted::Going(object) => answer(200, &object),
                // K28: these answer with the object, the others with a Status.
                Deleted::Gone(object) if matches!(resource.plural, "services" | "pods") => {
                    answer(200, &object)
                }
                Deleted::Gone(_) => value_response(200, &success(resource, name)),
            })
        }
        ("DELETE", None, _) => delete_collection(shared, target, query, &value, options.dry_run),
        _ => Err(ApiError::no_such_method()),
    }
}

fn namespace_for_create(target: &Target, value: &Value) -> Result<String, ApiError> {
    if !target.resource.namespaced {
        return Ok(String::new());
    }
    match &target.namespace {
        Some(namespace) => Ok(namespace.clone()),
        None if !str_at(value, "/metadata/namespace").is_empty() => {
            Ok(str_at(value, "/metadata/namespace").to_owned())
        }
        None => Err(ApiError::bad_request("an empty namespace may not be set during creation")),
    }
}

fn delete_collection(
    shared: &Shared,
    target: &Target,
    query: &Query,
    body: &Value,
    dry_run: bool,
) -> Result<Response<Body>, ApiError> {
    let resource = target.resource;
    let selector = query.selector(resource)?;
    let grace = query.number("gracePeriodSeconds")?;
    let gone = shared.store.with(|state| {
        let keys: Vec<(Key, Arc<Value>)> = state
            .all(resource)
            .filter(|(key, object)| {
                target.namespace.as_ref().is_none_or(|n| *n == key.namespace)
                    && selector.matches(object)
            })
            .map(|(key, object)| (key.clone(), Arc::clone(object)))
            .collect();
        for (key, _) in &keys {
            delete::delete(state, resource, key, body, grace, dry_run)?;
        }
        Ok(keys)
    })?;
    let items = gone.into_iter().map(|(_, object)| object).collect();
    let page = Page { items, rv: shared.store.version(), next: None, remaining: None };
    Ok(json_response(200, "application/json", Form::Whole.list(resource, &page)))
}

fn success(resource: &Resource, name: &str) -> Value {
    let mut status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": name, "kind": resource.plural},
    });
    if !resource.group.is_empty() {
        set(&mut status, &["details", "group"], resource.group);
    }
    status
}

fn warn(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    for warning in warnings {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append("warning", value);
        }
    }
    response
}
