//! The hash by which a request that comes again is told from another one under the same number.

use crate::encode::write_operation;
use crate::operation::Operation;

/// XXH64 (seed 0) of the operation's compact encoding, however it was sent. Stored with remembered replies: the encoding of an
/// operation must not change while replies to it may be remembered. `scratch` is cleared and used for the encoding.
pub fn request_hash(operation: &Operation, scratch: &mut Vec<u8>) -> u64 {
    scratch.clear();
    write_operation(operation, scratch);
    twox_hash::XxHash64::oneshot(0, scratch)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::decode::decode_request;
    use crate::operation::Operations;

    fn hash(body: &[u8]) -> u64 {
        let Operations::One(operation) = decode_request(body).unwrap().operations else { panic!("one operation") };
        request_hash(&operation, &mut vec![1, 2, 3])
    }

    #[test]
    fn the_hash_is_of_what_is_asked_and_stays() {
        let json = hash(br#"{"op":"incr","key":"k","by":2}"#);
        assert_eq!(hash(br#"{"by":2,"session":"00112233445566778899aabbccddeeff","seq":4,"key":"k","op":"incr"}"#), json);
        assert_ne!(hash(br#"{"op":"incr","key":"k","by":3}"#), json);
        assert_ne!(hash(br#"{"op":"incr","key":"l","by":2}"#), json);
        // Remembered replies outlive programs: another value here would take retries for other requests.
        assert_eq!(json, 15_974_085_217_572_308_486);
    }
}
