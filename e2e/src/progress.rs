//! Lines that show even while the test harness captures output: the long tests would look hung without them.

use std::io::Write as _;

/// Writes one line to standard error, past the harness.
pub fn line(text: impl AsRef<str>) {
    // A closed standard error is no reason to fail a test.
    let _ = writeln!(std::io::stderr().lock(), "e2e: {}", text.as_ref());
}
