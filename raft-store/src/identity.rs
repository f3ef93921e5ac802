//! Which Raft group a file, a record or a connection belongs to.

use std::fmt;

/// Written into every log file header, mixed into every record checksum and exchanged in every handshake, so that
/// neither a foreign volume nor a foreign peer nor a file of an older incarnation is ever taken for our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupIdentity {
    /// The cluster, drawn once when the cluster is founded.
    pub cluster: [u8; 16],
    /// The Raft group's number within the cluster; never reused.
    pub group: u32,
    /// Set when the group is created, so that a group made again under an old number is another group.
    pub creation: u64,
}

impl GroupIdentity {
    /// Length of [`GroupIdentity::to_bytes`].
    pub const BYTES: usize = 28;

    /// cluster: 16 | group: 4 | creation: 8, big-endian.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.cluster);
        bytes[16..20].copy_from_slice(&self.group.to_be_bytes());
        bytes[20..].copy_from_slice(&self.creation.to_be_bytes());
        bytes
    }

    /// The inverse of [`GroupIdentity::to_bytes`].
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let mut cluster = [0; 16];
        cluster.copy_from_slice(&bytes[..16]);
        Self {
            cluster,
            group: u32::from_be_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]),
            creation: u64::from_be_bytes([
                bytes[20], bytes[21], bytes[22], bytes[23], bytes[24], bytes[25], bytes[26], bytes[27],
            ]),
        }
    }
}

impl fmt::Display for GroupIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.cluster[..4] {
            write!(f, "{byte:02x}")?;
        }
        write!(f, "/{}@{}", self.group, self.creation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_survives_its_bytes() {
        let identity = GroupIdentity {
            cluster: [7; 16],
            group: 3,
            creation: u64::MAX - 1,
        };
        assert_eq!(GroupIdentity::from_bytes(identity.to_bytes()), identity);
    }
}
