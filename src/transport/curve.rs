//! The one computation that CURVE needs outside of sockets: public from secret.

use std::ffi::c_char;

use zeroize::Zeroizing;

use super::TransportError;

/// Z85 turns 4 bytes into 5 characters: 32 bytes into 40, and a zero byte ends the text.
const Z85_KEY_BYTES: usize = 41;

/// Computes the Curve25519 public key of `secret`.
///
/// # Errors
/// [`TransportError::NoCurve`] when libzmq was built without CURVE.
pub fn curve_public(secret: &[u8; 32]) -> Result<[u8; 32], TransportError> {
    let mut secret_text: Zeroizing<[u8; Z85_KEY_BYTES]> = Zeroizing::new([0; Z85_KEY_BYTES]);
    let mut public_text = [0_u8; Z85_KEY_BYTES];
    let mut public = [0_u8; 32];
    // SAFETY: zmq_z85_encode reads 32 bytes and writes 32 / 4 * 5 + 1 = 41 bytes.
    // zmq_curve_public reads a zero-terminated text of 40 characters, which the
    // first call has just written, and writes 41 bytes. zmq_z85_decode reads such a
    // text and writes 40 / 5 * 4 = 32 bytes. None of them keeps a pointer.
    unsafe {
        let encoded = zmq_sys::zmq_z85_encode(secret_text.as_mut_ptr().cast::<c_char>(), secret.as_ptr(), secret.len());
        assert!(!encoded.is_null(), "32 is a multiple of 4");
        let outcome = zmq_sys::zmq_curve_public(public_text.as_mut_ptr().cast::<c_char>(), secret_text.as_ptr().cast::<c_char>());
        if outcome != 0 {
            // Its only error is ENOTSUP.
            return Err(TransportError::NoCurve);
        }
        let decoded = zmq_sys::zmq_z85_decode(public.as_mut_ptr(), public_text.as_ptr().cast::<c_char>());
        assert!(!decoded.is_null(), "libzmq wrote valid Z85");
    }
    Ok(public)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn bytes(hex: &str) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
        }
        bytes
    }

    #[test]
    fn both_key_pairs_of_rfc_7748_section_6_1() {
        let pairs = [
            (
                "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
                "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            ),
            (
                "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
                "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
            ),
        ];
        for (secret, public) in pairs {
            assert_eq!(curve_public(&bytes(secret)).unwrap(), bytes(public));
        }
    }
}
