//! What changes a run from outside: environment variables.

use std::str::FromStr;

/// The value of an environment variable; the default if it is missing or cannot be read.
pub fn setting<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}
