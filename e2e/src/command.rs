//! The `flotilla` program as a shell runs it. A failure ends the test.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::process;

/// Runs the program to its end: exit code, standard output, standard error.
fn flotilla(arguments: &str, input: &str) -> (Option<i32>, String, String) {
    let mut child = Command::new(process::program().expect("the program"))
        .args(arguments.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the program");
    // One that does not read its input may be gone already.
    let _ = child.stdin.take().expect("input").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("the program ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Runs the program, which must succeed; its standard output.
pub fn succeeds(arguments: &str, input: &str) -> String {
    let (out, errors) = succeeds_with_progress(arguments, input);
    assert_eq!(errors, "", "{arguments}: {out}");
    out
}

/// The same for what may tell of its progress: standard output and standard error.
pub fn succeeds_with_progress(arguments: &str, input: &str) -> (String, String) {
    let (code, out, errors) = flotilla(arguments, input);
    assert_eq!(code, Some(0), "{arguments}: {out}{errors}");
    (out, errors)
}

/// Ends with this code, prints nothing, and says all of this.
pub fn fails(arguments: &str, code: i32, says: &[&str]) {
    let (ended, out, errors) = flotilla(arguments, "");
    assert_eq!((ended, out.as_str()), (Some(code), ""), "{arguments}: {errors}");
    for part in says {
        assert!(errors.contains(part), "{arguments}: no {part:?} in {errors}");
    }
}
