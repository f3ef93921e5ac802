//! Language codes: which client speaks. Numbers in the binary header, names in the JSON header.

/// Java; what we answer with, because every client knows it.
pub const JAVA: u8 = 0;
/// C++.
pub const CPP: u8 = 1;
/// Anything we do not know by name.
pub const OTHER: u8 = 7;
/// Go.
pub const GO: u8 = 9;
/// Rust.
pub const RUST: u8 = 12;

const NAMES: [&str; 14] = [
    "JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY", "OTHER", "HTTP", "GO", "PHP", "OMS", "RUST",
    "NODE_JS",
];

/// The name of a language code.
pub fn name(code: u8) -> &'static str {
    NAMES.get(usize::from(code)).copied().unwrap_or("OTHER")
}

/// The code of a language name; unknown names are [`OTHER`].
pub fn code(name: &str) -> u8 {
    NAMES
        .iter()
        .position(|known| *known == name)
        .map_or(OTHER, |at| at as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes() {
        assert_eq!(
            (name(JAVA), name(GO), name(RUST), name(200)),
            ("JAVA", "GO", "RUST", "OTHER")
        );
        assert_eq!((code("CPP"), code("NODE_JS"), code("COBOL")), (CPP, 13, OTHER));
    }
}
