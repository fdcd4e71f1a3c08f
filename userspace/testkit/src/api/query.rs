//! The query of a request: versions, paging, watching, selectors, write options.

use std::collections::HashMap;

use axum::extract::Query as AxumQuery;
use axum::http::Uri;
use serde_json::json;

use super::error::{ApiError, FieldError};
use super::resource::Resource;
use super::selector::Selector;

/// The rule that goes with a version.
const RULE: &str = "resourceVersionMatch";

fn refused(problems: &[FieldError]) -> Result<(), ApiError> {
    if problems.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid_options("ListOptions", problems))
    }
}

/// `resourceVersion` as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Unset,
    /// "0": any.
    Any,
    At(u64),
}

/// What the query holds, everything optional.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    values: HashMap<String, String>,
}

impl Query {
    /// # Errors
    /// 400 when the query cannot be decoded.
    pub(crate) fn parse(uri: &Uri) -> Result<Self, ApiError> {
        let query = AxumQuery::<HashMap<String, String>>::try_from_uri(uri)
            .map_err(|error| ApiError::bad_request(format!("cannot read the query: {error}")))?;
        Ok(Self { values: query.0 })
    }

    pub(crate) fn text(&self, key: &str) -> &str {
        self.values.get(key).map_or("", String::as_str)
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        matches!(self.text(key), "1" | "true")
    }

    /// A number, none if it is not sent.
    ///
    /// # Errors
    /// 400 when it is not a number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<u64>, ApiError> {
        match self.text(key) {
            "" => Ok(None),
            // A negative one is none.
            text => text.parse::<i64>().map(|number| u64::try_from(number).ok()).map_err(|_| {
                ApiError::bad_request(format!("invalid value {text:?} for {key}: not a number"))
            }),
        }
    }

    /// # Errors
    /// 400 for a version this server cannot have given out.
    pub(crate) fn version(&self) -> Result<Version, ApiError> {
        Ok(match self.text("resourceVersion") {
            "" => Version::Unset,
            "0" => Version::Any,
            text => Version::At(text.parse().map_err(|_| {
                ApiError::bad_request(format!(
                    "invalid resource version: {}",
                    ApiError::garbage_version(text)
                ))
            })?),
        })
    }

    /// The version where the real server looks at it only in its cache: a WATCH and a GET.
    ///
    /// # Errors
    /// 500 for a version this server cannot have given out.
    pub(crate) fn late_version(&self) -> Result<Version, ApiError> {
        self.version().map_err(|_| ApiError::garbage_version(self.text("resourceVersion")))
    }

    /// The name, where the field selector takes only that one.
    pub(crate) fn only_name(&self) -> Option<&str> {
        let name = self.text("fieldSelector").strip_prefix("metadata.name=")?;
        let name = name.strip_prefix('=').unwrap_or(name);
        (!name.contains([',', '='])).then_some(name)
    }

    /// What a LIST may not say at once, after `ValidateListOptions` of apimachinery.
    ///
    /// # Errors
    /// 422.
    pub(crate) fn check_list_options(&self) -> Result<(), ApiError> {
        let mut problems = Vec::new();
        let mut refuse = |field, message| problems.push(FieldError::forbidden(field, message));
        let rule = self.text(RULE);
        if !rule.is_empty() {
            if self.text("resourceVersion").is_empty() {
                refuse(
                    RULE,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                );
            }
            if !self.text("continue").is_empty() {
                refuse(RULE, "resourceVersionMatch is forbidden when continue is provided");
            }
            if rule == "Exact" && self.text("resourceVersion") == "0" {
                refuse(
                    RULE,
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                );
            }
        }
        if !self.text("sendInitialEvents").is_empty() {
            refuse("sendInitialEvents", "sendInitialEvents is forbidden for list");
        }
        problems.extend(self.unknown_rule(&["Exact", "NotOlderThan"]));
        refused(&problems)
    }

    /// What a WATCH may not say at once (K15).
    ///
    /// # Errors
    /// 422.
    pub(crate) fn check_watch_options(&self) -> Result<(), ApiError> {
        let mut problems = Vec::new();
        let mut refuse = |message| problems.push(FieldError::forbidden(RULE, message));
        let (sends, rule) = (!self.text("sendInitialEvents").is_empty(), self.text(RULE));
        if sends && rule != "NotOlderThan" {
            refuse("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        if !sends && !rule.is_empty() {
            refuse(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        if !rule.is_empty() && !self.text("continue").is_empty() {
            refuse("resourceVersionMatch is forbidden when continue is provided");
        }
        problems.extend(self.unknown_rule(&["NotOlderThan"]));
        refused(&problems)
    }

    fn unknown_rule(&self, known: &[&str]) -> Option<FieldError> {
        let rule = self.text(RULE);
        let good = rule.is_empty() || known.contains(&rule);
        (!good).then(|| FieldError::unsupported(RULE, &json!(rule), known))
    }

    /// # Errors
    /// 400, see [`Selector::parse`].
    pub(crate) fn selector(&self, resource: &Resource) -> Result<Selector, ApiError> {
        Selector::parse(resource, self.text("labelSelector"), self.text("fieldSelector"))
    }
}
