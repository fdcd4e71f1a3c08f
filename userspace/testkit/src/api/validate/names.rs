//! The forms that names have: labels, subdomains, qualified names.

/// Letters, digits and dashes, at most 63 (RFC 1123); `letter_first` is the older RFC 1035 form.
pub(crate) fn is_label(text: &str, letter_first: bool) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let first = |c: char| c != '-' && !(letter_first && c.is_ascii_digit());
    (1..=63).contains(&text.len())
        && text.chars().all(good)
        && text.starts_with(first)
        && !text.ends_with('-')
}

/// Labels with dots between them, at most 253 bytes.
pub(crate) fn is_subdomain(text: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let part =
        |p: &str| !p.is_empty() && p.chars().all(good) && !p.starts_with('-') && !p.ends_with('-');
    text.len() <= 253 && text.split('.').all(part)
}

/// The name part of labels' keys and values: letters, digits, `-`, `_`, `.`, at most 63, the ends of
/// it letters or digits.
fn is_word(text: &str) -> bool {
    let end = |c: char| c.is_ascii_alphanumeric();
    (1..=63).contains(&text.len())
        && text.chars().all(|c| end(c) || "-_.".contains(c))
        && text.starts_with(end)
        && text.ends_with(end)
}

/// A label's key, or who reports an Event: a name, with a subdomain and `/` before it or without.
pub(crate) fn is_qualified(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_word(name),
        None => is_word(text),
    }
}

/// A label's value, which may be empty.
pub(crate) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_word(text)
}
