//! Where a row stands on the ring: what a client needs to send a request to one of its replicas.

use xxhash_rust::xxh3::xxh3_64;

/// The token of a raw partition key: its `xxh3_64` with seed 0. The top bits name the partition.
pub fn token(partition_key: &[u8]) -> u64 {
    xxh3_64(partition_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same vector stands in the storage crate: if the two ever differ, clients ask the wrong nodes.
    #[test]
    fn tokens_follow_the_shared_test_vector() {
        for (key, expected) in [
            ("", 0x2d06_8005_38d3_94c2),
            ("a", 0xe6c6_32b6_1e96_4e1f),
            ("user:alice", 0xf8e9_c956_3231_cbd4),
            ("user_alice", 0x30f4_c512_2a18_703b),
        ] {
            assert_eq!(token(key.as_bytes()), expected, "token of {key:?}");
        }
    }
}
