//! Controllers and addresses as a configuration file names them.

/// A controller and where its controller port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Stable name.
    pub name: String,
    /// `host:port`, resolved at every connect.
    pub address: String,
}

/// Longest node name.
const NODE_NAME_BYTES_MAX: usize = 63;

impl Member {
    /// Reads `node=host:port`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((name, address)) = text.split_once('=') else {
            return Err(format!("`{text}` is not of the form node=host:port"));
        };
        if let Some(fault) = node_name_fault(name) {
            return Err(format!("`{text}`: {fault}"));
        }
        match address_fault(address) {
            None => Ok(Self {
                name: name.to_owned(),
                address: address.to_owned(),
            }),
            Some(fault) => Err(format!("`{text}`: {fault}")),
        }
    }
}

/// Why `address` is not `host:port`.
pub fn address_fault(address: &str) -> Option<String> {
    let port = address
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty())
        .map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(port)) if port != 0 => None,
        _ => Some(format!("`{address}` is not host:port")),
    }
}

/// Why `name` cannot be a node's name.
pub fn node_name_fault(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > NODE_NAME_BYTES_MAX {
        return Some(format!("a node name has 1 to {NODE_NAME_BYTES_MAX} letters"));
    }
    if !name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    {
        return Some(format!("node name `{name}` may hold only letters, digits, `-` and `_`"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_read_and_refused() {
        let member = Member::parse("n1=host:10912").unwrap();
        assert_eq!((member.name.as_str(), member.address.as_str()), ("n1", "host:10912"));
        for wrong in [
            "n1",
            "n1=",
            "n1=host",
            "n1=:1",
            "n1=host:0",
            "n1=host:x",
            "=host:1",
            "a b=host:1",
        ] {
            assert!(Member::parse(wrong).is_err(), "{wrong}");
        }
    }
}
