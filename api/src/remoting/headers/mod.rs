//! The named fields of each request and response, one file a family.
//!
//! A header is read from and written to [`ExtFields`]; texts are borrowed from it. A field that is an `Option` may be
//! missing; a number that does not parse counts as missing, as in the official server.

pub mod admin;
pub mod consumer;
pub mod offset;
pub mod pull;
pub mod query;
pub mod route;
pub mod send;
pub mod topic;
pub mod transaction;

pub use super::ext_fields::{ExtFields, HeaderError};

/// One field of a header.
pub(crate) trait Field<'a>: Sized {
    fn read(fields: &'a ExtFields, key: &'static str) -> Result<Self, HeaderError>;
    fn write(&self, key: &'static str, fields: &mut ExtFields);
}

macro_rules! required {
    ($type:ty, $read:expr) => {
        impl<'a> Field<'a> for $type {
            fn read(fields: &'a ExtFields, key: &'static str) -> Result<Self, HeaderError> {
                let read: fn(&'a ExtFields, &str) -> Option<$type> = $read;
                read(fields, key).ok_or(HeaderError::Missing(key))
            }

            fn write(&self, key: &'static str, fields: &mut ExtFields) {
                fields.push(key, self);
            }
        }
    };
}

required!(&'a str, |fields, key| fields.get(key));
required!(i32, |fields, key| fields.i32(key));
required!(i64, |fields, key| fields.i64(key));
required!(bool, |fields, key| fields.bool(key));

impl<'a, T: Field<'a>> Field<'a> for Option<T> {
    fn read(fields: &'a ExtFields, key: &'static str) -> Result<Self, HeaderError> {
        Ok(T::read(fields, key).ok())
    }

    fn write(&self, key: &'static str, fields: &mut ExtFields) {
        if let Some(value) = self {
            value.write(key, fields);
        }
    }
}

/// Declares a header: a struct, and how its fields are called on the wire.
macro_rules! header {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $key:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

        impl $name {
            /// Reads the fields of a command.
            pub fn decode(fields: &$crate::remoting::ExtFields) -> Result<Self, $crate::remoting::HeaderError> {
                Ok($name { $($field: $crate::remoting::headers::Field::read(fields, $key)?,)* })
            }

            /// Adds the fields to a command.
            pub fn encode(&self, fields: &mut $crate::remoting::ExtFields) {
                $($crate::remoting::headers::Field::write(&self.$field, $key, fields);)*
            }
        }
    };
    ($(#[$doc:meta])* $name:ident<$life:lifetime> { $($(#[$field_doc:meta])* $field:ident: $type:ty = $key:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name<$life> { $($(#[$field_doc])* pub $field: $type,)* }

        impl<$life> $name<$life> {
            /// Reads the fields of a command.
            pub fn decode(fields: &$life $crate::remoting::ExtFields) -> Result<Self, $crate::remoting::HeaderError> {
                Ok($name { $($field: $crate::remoting::headers::Field::read(fields, $key)?,)* })
            }

            /// Adds the fields to a command.
            pub fn encode(&self, fields: &mut $crate::remoting::ExtFields) {
                $($crate::remoting::headers::Field::write(&self.$field, $key, fields);)*
            }
        }
    };
}
pub(crate) use header;

#[cfg(test)]
mod tests;
