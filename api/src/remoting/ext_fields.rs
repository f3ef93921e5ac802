//! The named fields of a header, all of them text on the wire.
//!
//! One string holds every key and value, one list says where each lies: reading a header costs two allocations, however
//! many fields it has. Of equal keys the last one counts.

use super::decimal::Decimal;

/// A header field that is missing or cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// A required field is not there, or is not what its type says.
    #[error("the custom field <{0}> is null")]
    Missing(&'static str),
    /// A field of a header that must be read exactly does not parse.
    #[error("the custom field <{0}> has a malformed value")]
    Malformed(&'static str),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Header texts are shorter than a frame, so 32 bits hold every place.
    pub(super) fn new(start: usize, end: usize) -> Span {
        Span {
            start: start as u32,
            end: end as u32,
        }
    }
}

/// Keys and values of a header.
#[derive(Clone, Default)]
pub struct ExtFields {
    text: String,
    entries: Vec<(Span, Span)>,
}

impl ExtFields {
    /// No field.
    pub fn new() -> ExtFields {
        ExtFields::default()
    }

    /// Fields found in `text`, which may hold more than them.
    pub(super) fn from_spans(text: String, entries: Vec<(Span, Span)>) -> ExtFields {
        ExtFields { text, entries }
    }

    /// The value of a field.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries
            .iter()
            .rev()
            .find(|(k, _)| self.at(*k) == key)
            .map(|(_, value)| self.at(*value))
    }

    /// Whether a field is there.
    pub fn contains(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// All fields in the order received or added.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &str)> + ExactSizeIterator {
        self.entries.iter().map(|(key, value)| (self.at(*key), self.at(*value)))
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a field.
    pub fn push(&mut self, key: &str, value: impl FieldValue) {
        if self.entries.is_empty() {
            // Room for an ordinary response, so that it does not grow step by step.
            self.text.reserve(192);
            self.entries.reserve(8);
        }
        let key_start = self.text.len();
        self.text.push_str(key);
        let value_start = self.text.len();
        value.write(&mut self.text);
        self.entries.push((
            Span::new(key_start, value_start),
            Span::new(value_start, self.text.len()),
        ));
    }

    /// Adds a field if there is a value for it.
    pub fn push_some(&mut self, key: &str, value: Option<impl FieldValue>) {
        if let Some(value) = value {
            self.push(key, value);
        }
    }

    /// Adds a field, or replaces it.
    pub fn set(&mut self, key: &str, value: impl FieldValue) {
        let (text, entries) = (&self.text, &mut self.entries);
        entries.retain(|(k, _)| text.get(k.start as usize..k.end as usize) != Some(key));
        self.push(key, value);
    }

    /// A number, or `None` when it is missing or not a number.
    pub fn i32(&self, key: &str) -> Option<i32> {
        self.get(key)?.parse().ok()
    }

    /// A number, or `None` when it is missing or not a number.
    pub fn i64(&self, key: &str) -> Option<i64> {
        self.get(key)?.parse().ok()
    }

    /// A truth value: `true` in any case of letters, everything else is false; `None` when it is missing.
    pub fn bool(&self, key: &str) -> Option<bool> {
        self.get(key).map(parse_bool)
    }

    fn at(&self, span: Span) -> &str {
        // Spans are made by this module and its readers, on character boundaries of the text.
        self.text
            .get(span.start as usize..span.end as usize)
            .unwrap_or_default()
    }
}

/// Java's `Boolean.parseBoolean`.
pub(super) fn parse_bool(text: &str) -> bool {
    text.eq_ignore_ascii_case("true")
}

impl std::fmt::Debug for ExtFields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl PartialEq for ExtFields {
    fn eq(&self, other: &ExtFields) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ExtFields {}

impl<K: AsRef<str>, V: FieldValue> FromIterator<(K, V)> for ExtFields {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(fields: I) -> ExtFields {
        let mut all = ExtFields::new();
        for (key, value) in fields {
            all.push(key.as_ref(), value);
        }
        all
    }
}

/// What can stand in a header field.
pub trait FieldValue {
    /// Adds the text form.
    fn write(&self, out: &mut String);
}

impl FieldValue for str {
    fn write(&self, out: &mut String) {
        out.push_str(self);
    }
}

impl FieldValue for String {
    fn write(&self, out: &mut String) {
        out.push_str(self);
    }
}

impl FieldValue for bool {
    fn write(&self, out: &mut String) {
        out.push_str(if *self { "true" } else { "false" });
    }
}

impl<T: FieldValue + ?Sized> FieldValue for &T {
    fn write(&self, out: &mut String) {
        (**self).write(out);
    }
}

macro_rules! number_values {
    ($($number:ty),*) => {$(
        impl FieldValue for $number {
            fn write(&self, out: &mut String) {
                out.push_str(Decimal::new(i64::from(*self)).as_str());
            }
        }
    )*};
}

number_values!(i32, i64, u32, u16, u8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_of_equal_keys_counts_and_set_replaces() {
        let mut fields = ExtFields::new();
        fields.push("a", 1i32);
        fields.push("b", "x");
        fields.push("a", -2i64);
        assert_eq!(fields.get("a"), Some("-2"));
        fields.set("a", true);
        assert_eq!(fields.iter().collect::<Vec<_>>(), [("b", "x"), ("a", "true")]);
        fields.push_some("c", None::<&str>);
        assert!(!fields.contains("c") && fields.len() == 2);
    }

    #[test]
    fn values_are_read_as_the_official_server_reads_them() {
        let fields: ExtFields = [
            ("n", "12"),
            ("m", "-5"),
            ("bad", "1x"),
            ("t", "TRUE"),
            ("f", "yes"),
            ("e", ""),
        ]
        .into_iter()
        .collect();
        assert_eq!(
            (fields.i32("n"), fields.i64("m"), fields.i32("bad"), fields.i64("none")),
            (Some(12), Some(-5), None, None)
        );
        assert_eq!(
            (fields.bool("t"), fields.bool("f"), fields.bool("none")),
            (Some(true), Some(false), None)
        );
        assert_eq!((fields.get("e"), fields.i32("e")), (Some(""), None));
    }
}
