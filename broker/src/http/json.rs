//! Small pieces of documents.

use serde_json::{Value, json};

use super::LIST_ITEMS_MAX;

/// A list; cut at the limit, and it says so.
pub fn items(mut items: Vec<Value>) -> Value {
    if items.len() > LIST_ITEMS_MAX {
        items.truncate(LIST_ITEMS_MAX);
        return json!({ "items": items, "truncated": true });
    }
    json!({ "items": items })
}

/// A type of the API as a document.
pub fn document(of: &impl serde::Serialize) -> Value {
    serde_json::to_value(of).expect("types of the API are plain values with text keys")
}

const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// A duration such as `72h` in milliseconds.
pub fn parse_duration(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor = UNITS.iter().find(|(name, _)| *name == unit)?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Milliseconds in the largest unit that says them exactly.
pub fn format_duration(ms: u64) -> String {
    let (unit, factor) = UNITS
        .iter()
        .find(|(_, factor)| ms.is_multiple_of(*factor) && ms != 0)
        .unwrap_or(&UNITS[4]);
    format!("{}{unit}", ms / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_survive_their_text() {
        for (ms, text) in [(259_200_000, "3d"), (5_400_000, "90m"), (1_500, "1500ms"), (0, "0ms")] {
            assert_eq!(format_duration(ms), text);
            assert_eq!(parse_duration(text), Some(ms));
        }
        assert_eq!(parse_duration("72h"), Some(259_200_000));
        for wrong in ["", "h", "72", "72x", "-1h", "99999999999999999999h", "1.5h"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }
}
