//! Times as the API has them: UTC in whole seconds, or with exactly six digits (K24).

use k8s_openapi::jiff::Timestamp;

/// Now, in whole seconds: `2026-01-31T12:00:00Z`.
pub(crate) fn now_s() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Any RFC 3339 time in UTC and whole seconds, none if it is not one.
pub(crate) fn canonical(text: &str) -> Option<String> {
    let time: Timestamp = text.parse().ok()?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// A MicroTime in UTC, none unless it has exactly six digits of fraction.
pub(crate) fn canonical_micro(text: &str) -> Option<String> {
    let (_, fraction) = text.split_once('.')?;
    let digits = fraction.chars().take_while(char::is_ascii_digit).count();
    let time: Timestamp = text.parse().ok()?;
    (digits == 6).then(|| time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string())
}

/// Whole seconds from a time until now, 0 for one that cannot be read.
pub(crate) fn age_s(text: &str) -> i64 {
    text.parse::<Timestamp>().map_or(0, |t| Timestamp::now().as_second() - t.as_second())
}

/// A moment so many seconds from now.
pub(crate) fn later_s(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(0);
    let later = Timestamp::from_second(Timestamp::now().as_second() + seconds);
    later.unwrap_or_else(|_| Timestamp::now()).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
