//! Tags and tag filters: what a broker compares is a hash, what a consumer checks again is the text.

use crate::properties;

/// Java's `String.hashCode`: h = 31·h + UTF-16 unit, wrapping.
pub fn java_string_hash(text: &str) -> i32 {
    text.encode_utf16()
        .fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

/// The tag hash of a message; 0 without a tag.
pub fn tag_hash(properties_text: &str) -> i32 {
    properties::get(properties_text, properties::TAGS).map_or(0, java_string_hash)
}

/// A filter expression that names no tag, such as `||`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the filter expression {0:?} names no tag")]
pub struct TagFilterError(pub String);

/// Which messages a tag expression lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagFilter {
    /// Every message.
    All,
    /// Messages whose tag hash is listed; sorted.
    Hashes(Vec<i32>),
}

impl TagFilter {
    /// Reads `*`, nothing, or tags separated by `||`.
    pub fn parse(expression: &str) -> Result<TagFilter, TagFilterError> {
        let expression = expression.trim();
        if expression.is_empty() || expression == "*" {
            return Ok(TagFilter::All);
        }
        let mut hashes: Vec<i32> = expression
            .split("||")
            .map(str::trim)
            .filter(|tag| !tag.is_empty())
            .map(java_string_hash)
            .collect();
        if hashes.is_empty() {
            return Err(TagFilterError(expression.to_owned()));
        }
        hashes.sort_unstable();
        hashes.dedup();
        Ok(TagFilter::Hashes(hashes))
    }

    /// Whether a message with this tag hash passes. True for another tag of the same hash: the consumer checks the text.
    pub fn matches(&self, hash: i32) -> bool {
        match self {
            TagFilter::All => true,
            TagFilter::Hashes(hashes) => hashes.binary_search(&hash).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_that_of_java() {
        assert_eq!(java_string_hash("TagA"), 2_598_919);
        assert_eq!(java_string_hash("TagB"), 2_598_920);
        assert_eq!(java_string_hash(""), 0);
        assert_eq!(java_string_hash("polygenelubricants"), i32::MIN);
        // One code point outside the basic plane is two units.
        assert_eq!(
            java_string_hash("\u{1F600}"),
            0xD83D_i32.wrapping_mul(31).wrapping_add(0xDE00)
        );
    }

    #[test]
    fn expressions() {
        for all in ["*", "", "  "] {
            assert!(TagFilter::parse(all).expect("parses").matches(0), "{all:?}");
        }
        let filter = TagFilter::parse(" TagA || TagB||TagA").expect("parses");
        assert_eq!(filter, TagFilter::Hashes(vec![2_598_919, 2_598_920]));
        assert!(filter.matches(2_598_919) && !filter.matches(0) && !filter.matches(7));
        assert!(TagFilter::parse("||").is_err());
    }

    #[test]
    fn a_message_without_a_tag_has_hash_zero() {
        assert_eq!(tag_hash("KEYS\u{1}k\u{2}"), 0);
        assert_eq!(tag_hash("TAGS\u{1}TagA\u{2}"), 2_598_919);
    }
}
