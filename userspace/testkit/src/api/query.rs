//! The query of a request: versions, paging, watching, selectors, write options.

use std::collections::HashMap;

use axum::extract::Query as AxumQuery;
use axum::http::Uri;

use super::error::ApiError;
use super::resource::Resource;
use super::selector::Selector;

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
                    "Invalid value: {text:?}: strconv.ParseUint: parsing: invalid syntax"
                ))
            })?),
        })
    }

    /// # Errors
    /// 400, see [`Selector::parse`].
    pub(crate) fn selector(&self, resource: &Resource) -> Result<Selector, ApiError> {
        Selector::parse(resource, self.text("labelSelector"), self.text("fieldSelector"))
    }
}
