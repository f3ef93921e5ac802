//! Reading JSON the way the official server's parser does: lenient about how a value is written.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// `null` counts as missing.
pub(super) fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// A number, also in quotes; anything else is 0.
pub(super) fn number<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    Ok(match from.deserialize_any(ScalarVisitor)? {
        Scalar::Number(value) => value,
        Scalar::Text(text) => text.trim().parse().unwrap_or(0),
        Scalar::Nothing => 0,
    })
}

/// A truth value, also in quotes or as a number; anything else is false.
pub(super) fn truth<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    Ok(match from.deserialize_any(ScalarVisitor)? {
        Scalar::Number(value) => value != 0,
        Scalar::Text(text) => text.eq_ignore_ascii_case("true"),
        Scalar::Nothing => false,
    })
}

/// One of the names, or its ordinal as a number or in quotes; `None` for anything else.
pub(super) fn one_of<'de, D: Deserializer<'de>>(from: D, names: &[&str]) -> Result<Option<usize>, D::Error> {
    let ordinal = |value: i64| usize::try_from(value).ok().filter(|at| *at < names.len());
    Ok(match from.deserialize_any(ScalarVisitor)? {
        Scalar::Number(value) => ordinal(value),
        Scalar::Text(text) => names
            .iter()
            .position(|name| *name == text)
            .or_else(|| text.parse().ok().and_then(ordinal)),
        Scalar::Nothing => None,
    })
}

enum Scalar {
    Number(i64),
    Text(String),
    Nothing,
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, text, true, false or null")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar::Number(i64::from(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar::Number(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar::Number(i64::try_from(value).unwrap_or(i64::MAX)))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Scalar, E> {
        Ok(Scalar::Number(value as i64))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(value.to_owned()))
    }

    fn visit_unit<E: Error>(self) -> Result<Scalar, E> {
        Ok(Scalar::Nothing)
    }
}
