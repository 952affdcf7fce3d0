//! Secrets at rest: AES-256-GCM, every seal bound to its key id and to the row that it lives in.

use aes_gcm::{
    Aes256Gcm, Key, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use rand::RngCore;
pub use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use std::{fmt, sync::Arc};

/// First byte of every seal.
const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// A key id is at most this many bytes, which is shorter than any 256-bit key in base64 or hex:
/// a key put in the id's place is refused before an error message could print it.
pub const KEY_ID_MAX_BYTES: usize = 32;

/// The keys of one installation. The first seals, any opens.
///
/// A seal is `version, length of key id, key id, nonce (12 bytes), ciphertext and tag`. The associated data are its
/// first three fields and the *context*, `"table:column:row-id"`: a seal that is copied to another row, column or table
/// does not open. Nonces are random, so one key is good for 2³² seals; rotate long before.
#[derive(Clone)]
pub struct Vault {
    keys: Arc<[(String, Aes256Gcm)]>,
}

impl Vault {
    /// Reads `id:base64,id2:base64`: the form of `LIGNE_VAULT_KEYS`. Each key is 256 bits in standard base64.
    pub fn from_keys(keys: &str) -> Result<Self, KeysError> {
        let mut read: Vec<(String, Aes256Gcm)> = Vec::new();
        for (entry, place) in keys.split(',').map(str::trim).zip(1..) {
            if entry.is_empty() && keys.trim().is_empty() {
                return Err(KeysError::None);
            }
            let (id, key) = entry.split_once(':').ok_or(KeysError::NoId { place })?;
            let (id, key) = (id.trim(), key.trim());
            if !is_key_id(id.as_bytes()) {
                return Err(KeysError::BadId { place });
            }
            let id = id.to_owned();
            if read.iter().any(|(other, _)| *other == id) {
                return Err(KeysError::Twice { id });
            }
            let key = match BASE64_STANDARD.decode(key) {
                Ok(key) => Zeroizing::new(key),
                Err(_) => return Err(KeysError::NotBase64 { id }),
            };
            let Ok(key) = <&Key<Aes256Gcm>>::try_from(key.as_slice()) else {
                return Err(KeysError::WrongLength { id, bytes: key.len() });
            };
            if key.iter().all(|byte| *byte == key[0]) {
                return Err(KeysError::Weak { id });
            }
            read.push((id, Aes256Gcm::new(key)));
        }
        Ok(Self { keys: read.into() })
    }

    /// A new random key in the form that [`Vault::from_keys`] reads: `id:base64`.
    pub fn new_key(id: &str) -> Result<SecretString, KeysError> {
        if !is_key_id(id.as_bytes()) {
            return Err(KeysError::BadId { place: 1 });
        }
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        rand::rng().fill_bytes(key.as_mut());
        Ok(format!("{id}:{}", BASE64_STANDARD.encode(&key)).into())
    }

    /// Seals with the first key. `context` is `"table:column:row-id"` and must be given again to open.
    pub fn seal(&self, context: &str, plain: &[u8]) -> Vec<u8> {
        let (id, cipher) = &self.keys[0];
        let head = head(id);
        let mut nonce = Nonce::default();
        rand::rng().fill_bytes(&mut nonce);
        let secret = cipher
            .encrypt(&nonce, Payload { msg: plain, aad: &bound(&head, context) })
            .expect("AES-GCM refuses only more than 64 GiB");
        [head.as_slice(), nonce.as_slice(), &secret].concat()
    }

    /// Opens what any of the keys has sealed for this context.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let Seal { id, head, nonce, secret } = Seal::read(sealed)?;
        let (_, cipher) =
            self.keys.iter().find(|(known, _)| known == id).ok_or_else(|| OpenError::UnknownKey { id: id.to_owned() })?;
        cipher
            .decrypt(nonce, Payload { msg: secret, aad: &bound(head, context) })
            .map(Zeroizing::new)
            .map_err(|_| OpenError::Refused)
    }

    /// [`Vault::seal`] for text.
    pub fn seal_str(&self, context: &str, plain: &str) -> Vec<u8> {
        self.seal(context, plain.as_bytes())
    }

    /// [`Vault::open`] for text.
    pub fn open_str(&self, context: &str, sealed: &[u8]) -> Result<SecretString, OpenError> {
        let plain = self.open(context, sealed)?;
        std::str::from_utf8(&plain).map(SecretString::from).map_err(|_| OpenError::NotText)
    }

    /// Whether this was sealed by a key other than the first, or is no seal at all.
    pub fn needs_rotation(&self, sealed: &[u8]) -> bool {
        !Seal::read(sealed).is_ok_and(|seal| seal.id == self.keys[0].0)
    }

    /// Opens and seals again with the first key.
    pub fn reseal(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        self.open(context, sealed).map(|plain| self.seal(context, &plain))
    }

    /// The id of the key that seals: for the columns and logs that name it.
    pub fn sealing_key_id(&self) -> &str {
        &self.keys[0].0
    }
}

impl std::str::FromStr for Vault {
    type Err = KeysError;
    fn from_str(keys: &str) -> Result<Self, KeysError> {
        Self::from_keys(keys)
    }
}

impl TryFrom<&SecretString> for Vault {
    type Error = KeysError;
    fn try_from(keys: &SecretString) -> Result<Self, KeysError> {
        Self::from_keys(keys.expose_secret())
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(***)")
    }
}

/// Why the keys cannot be used. Never holds a key or part of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    #[error("no vault key: expected `id:base64`, several separated by commas")]
    None,
    #[error("vault key {place} has no id: expected `id:base64`")]
    NoId { place: usize },
    #[error("the id of vault key {place} is not 1 to {KEY_ID_MAX_BYTES} ASCII letters, digits, `.`, `_` or `-`")]
    BadId { place: usize },
    #[error("vault key id `{id}` is given twice")]
    Twice { id: String },
    #[error("vault key `{id}` is not standard base64 with padding")]
    NotBase64 { id: String },
    #[error("vault key `{id}` is {bytes} bytes long instead of {KEY_BYTES}")]
    WrongLength { id: String, bytes: usize },
    #[error("vault key `{id}` is one byte repeated: use random bytes")]
    Weak { id: String },
}

/// Why a seal does not open. Never holds plain text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("this is not a seal of version {VERSION}")]
    Malformed,
    #[error("sealed with key `{id}`, which is not among the vault's keys")]
    UnknownKey { id: String },
    #[error("the seal was altered, belongs to another row, or its key id now names another key")]
    Refused,
    #[error("the sealed bytes are not UTF-8 text")]
    NotText,
}

/// The parts of a seal, unopened.
struct Seal<'a> {
    id: &'a str,
    head: &'a [u8],
    nonce: &'a Nonce<aes_gcm::aead::consts::U12>,
    secret: &'a [u8],
}

impl<'a> Seal<'a> {
    fn read(sealed: &'a [u8]) -> Result<Self, OpenError> {
        let [VERSION, length, rest @ ..] = sealed else { return Err(OpenError::Malformed) };
        let (id, rest) = rest.split_at_checked(usize::from(*length)).ok_or(OpenError::Malformed)?;
        let (nonce, secret) = rest.split_at_checked(NONCE_BYTES).ok_or(OpenError::Malformed)?;
        if !is_key_id(id) || secret.len() < TAG_BYTES {
            return Err(OpenError::Malformed);
        }
        let id = std::str::from_utf8(id).map_err(|_| OpenError::Malformed)?;
        let nonce = nonce.try_into().map_err(|_| OpenError::Malformed)?;
        Ok(Self { id, head: &sealed[..2 + id.len()], nonce, secret })
    }
}

fn is_key_id(id: &[u8]) -> bool {
    (1..=KEY_ID_MAX_BYTES).contains(&id.len()) && id.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
}

/// Version and key id: written before, and bound into, every seal.
fn head(id: &str) -> Vec<u8> {
    let length = u8::try_from(id.len()).expect("ids are checked to be short");
    [&[VERSION, length], id.as_bytes()].concat()
}

/// The associated data. The head tells its own length, so no two pairs of key id and context give the same bytes.
fn bound(head: &[u8], context: &str) -> Vec<u8> {
    [head, context.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: &str = "a:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    const B: &str = "b:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";
    const ROW: &str = "line:token:0192";

    fn vault(keys: &[&str]) -> Vault {
        Vault::from_keys(&keys.join(",")).expect("test keys")
    }

    #[test]
    fn rotation_opens_old_seals_and_closes_with_the_new_key() {
        let old = vault(&[A]).seal_str(ROW, "token");
        let both = vault(&[B, A]);
        assert_eq!(both.open_str(ROW, &old).expect("open").expose_secret(), "token");
        assert!(both.needs_rotation(&old));
        let new = both.reseal(ROW, &old).expect("reseal");
        assert!(!both.needs_rotation(&new));
        assert_eq!(vault(&[B]).open_str(ROW, &new).expect("open").expose_secret(), "token");
        assert_eq!(vault(&[A]).open(ROW, &new), Err(OpenError::UnknownKey { id: "b".into() }));
    }

    #[test]
    fn another_key_under_the_same_id_opens_nothing() {
        let sealed = vault(&[A]).seal(ROW, b"token");
        let usurper = format!("a:{}", &B[2..]);
        assert_eq!(vault(&[&usurper]).open(ROW, &sealed), Err(OpenError::Refused));
    }

    #[test]
    fn a_seal_never_repeats() {
        let vault = vault(&[A]);
        assert_ne!(vault.seal(ROW, b"token"), vault.seal(ROW, b"token"));
    }

    #[test]
    fn new_keys_are_usable_and_differ() {
        let (one, two) = (Vault::new_key("k1").expect("key"), Vault::new_key("k1").expect("key"));
        assert_ne!(one.expose_secret(), two.expose_secret());
        let vault = Vault::try_from(&one).expect("usable");
        assert_eq!(vault.sealing_key_id(), "k1");
        assert_eq!(vault.open(ROW, &vault.seal(ROW, b"")).expect("open").as_slice(), b"");
    }

    #[test]
    fn bad_keys_are_refused_without_being_shown() {
        let key = &A[2..];
        let swapped = format!("{key}:a");
        let short = format!("a:{}", BASE64_STANDARD.encode([7; 16]));
        let weak = format!("a:{}", BASE64_STANDARD.encode([7; 32]));
        let twice = format!("{A},{A}");
        let trailing = format!("{A},");
        for (keys, want) in [
            ("", KeysError::None),
            ("  ", KeysError::None),
            (key, KeysError::NoId { place: 1 }),
            (&trailing, KeysError::NoId { place: 2 }),
            (&swapped, KeysError::BadId { place: 1 }),
            (":AAAA", KeysError::BadId { place: 1 }),
            ("a:not base64!", KeysError::NotBase64 { id: "a".into() }),
            ("a:", KeysError::WrongLength { id: "a".into(), bytes: 0 }),
            (&short, KeysError::WrongLength { id: "a".into(), bytes: 16 }),
            (&weak, KeysError::Weak { id: "a".into() }),
            (&twice, KeysError::Twice { id: "a".into() }),
        ] {
            let error = Vault::from_keys(keys).expect_err("bad keys");
            assert_eq!(error, want);
            assert!(!error.to_string().contains(key) && !format!("{error:?}").contains(key));
        }
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", vault(&[A, B])), "Vault(***)");
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens(context: String, plain: Vec<u8>) {
            let vault = vault(&[A, B]);
            let sealed = vault.seal(&context, &plain);
            let opened = vault.open(&context, &sealed).expect("open");
            prop_assert_eq!(opened.as_slice(), plain.as_slice());
        }

        #[test]
        fn any_flipped_bit_fails(plain: Vec<u8>, bit: prop::sample::Index) {
            let vault = vault(&[A, B]);
            let mut sealed = vault.seal(ROW, &plain);
            let bit = bit.index(sealed.len() * 8);
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(vault.open(ROW, &sealed).is_err());
        }

        #[test]
        fn any_other_context_fails(one: String, other: String) {
            prop_assume!(one != other);
            let vault = vault(&[A]);
            prop_assert_eq!(vault.open(&other, &vault.seal(&one, b"token")), Err(OpenError::Refused));
        }

        #[test]
        fn any_cut_or_longer_seal_fails(plain: Vec<u8>, cut: prop::sample::Index) {
            let vault = vault(&[A]);
            let sealed = vault.seal(ROW, &plain);
            prop_assert!(vault.open(ROW, &sealed[..cut.index(sealed.len())]).is_err());
            prop_assert!(vault.open(ROW, &[&sealed[..], &[0]].concat()).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let vault = vault(&[A]);
            prop_assert!(vault.open(ROW, &bytes).is_err());
            vault.needs_rotation(&bytes);
        }
    }
}
