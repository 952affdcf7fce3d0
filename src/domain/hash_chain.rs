//! Tamper evidence: records in canonical bytes, each hash covering the one before.
//!
//! Used by the ledger, the invoices and the purchase receipts. A record is a JSON value of strings, integers, booleans and
//! nulls; money and instants are integers or strings, so that PostgreSQL may store and re-print it without changing a byte.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// SHA-256 of a link.
pub type Hash = [u8; 32];

/// First byte of what is hashed: a first link can never be passed off as a later one.
const FIRST: u8 = 0;
const LATER: u8 = 1;

/// The hash of a record that follows `previous` (none for the first of its chain).
pub fn link(previous: Option<Hash>, canonical: &[u8]) -> Hash {
    let mut hasher = Sha256::new();
    match previous {
        None => hasher.update([FIRST]),
        Some(previous) => {
            hasher.update([LATER]);
            hasher.update(previous);
        }
    }
    hasher.update(canonical);
    hasher.finalize().into()
}

/// The one spelling of a record: UTF-8 JSON without white space, keys sorted by code point.
pub fn canonical(record: &(impl Serialize + ?Sized)) -> Result<Vec<u8>, NotCanonical> {
    let value = serde_json::to_value(record).map_err(|error| NotCanonical::Shape(error.to_string()))?;
    canonical_value(&value)
}

fn canonical_value(value: &Value) -> Result<Vec<u8>, NotCanonical> {
    let mut out = Vec::new();
    write(value, &mut out).map_err(|path| NotCanonical::Fraction(format!("${path}")))?;
    Ok(out)
}

/// `link` over the canonical bytes of a record: what most callers want.
pub fn link_record(previous: Option<Hash>, record: &Value) -> Result<Hash, NotCanonical> {
    Ok(link(previous, &canonical_value(record)?))
}

/// Walks a chain in order, each item a record's canonical bytes and its stored hash; returns the last hash (none if empty).
pub fn verify<B: AsRef<[u8]>>(chain: impl IntoIterator<Item = (B, Hash)>) -> Result<Option<Hash>, BrokenLink> {
    let mut previous = None;
    for (index, (bytes, stored)) in chain.into_iter().enumerate() {
        let expected = link(previous, bytes.as_ref());
        if expected != stored {
            return Err(BrokenLink { index, expected, stored });
        }
        previous = Some(stored);
    }
    Ok(previous)
}

/// Why a record has no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCanonical {
    /// Fractions have several spellings; use integer units or decimal strings.
    #[error("a fractional number at {0} has no canonical form")]
    Fraction(String),
    #[error("not a JSON record: {0}")]
    Shape(String),
}

/// The first link whose stored hash is not the hash of its record and predecessor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the chain is broken at link {index}")]
pub struct BrokenLink {
    /// Counted from 0.
    pub index: usize,
    pub expected: Hash,
    pub stored: Hash,
}

/// The error is the path of a fraction.
fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), String> {
    match value {
        Value::Number(number) if number.is_f64() => return Err(String::new()),
        Value::Null | Value::Bool(_) | Value::Number(_) => out.extend_from_slice(value.to_string().as_bytes()),
        Value::String(text) => quote(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out).map_err(|path| format!("[{index}]{path}"))?;
            }
            out.push(b']');
        }
        Value::Object(fields) => {
            // Sorted here and not left to the map: its order is a feature flag of serde_json.
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| key.as_str());
            out.push(b'{');
            for (index, (key, field)) in fields.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                quote(key, out);
                out.push(b':');
                write(field, out).map_err(|path| format!(".{key}{path}"))?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

/// As serde_json spells it; most texts need no escape.
fn quote(text: &str, out: &mut Vec<u8>) {
    if text.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        return out.extend_from_slice(Value::from(text).to_string().as_bytes());
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn keys_are_sorted_at_every_depth_and_nothing_is_escaped_twice() {
        let record = json!({"b": 1, "a": [{"z": "é\n\"", "y": null}], "é": true});
        let text = String::from_utf8(canonical(&record).unwrap()).unwrap();
        assert_eq!(text, r#"{"a":[{"y":null,"z":"é\n\""}],"b":1,"é":true}"#);
    }

    #[test]
    fn a_fraction_is_refused_by_its_path() {
        assert_eq!(canonical(&json!({"lines": [{"price": 0.1}]})), Err(NotCanonical::Fraction("$.lines[0].price".into())));
        assert!(canonical(&json!({"n": u64::MAX, "m": i64::MIN})).is_ok());
    }

    #[test]
    fn a_first_link_is_never_a_later_one() {
        assert_ne!(link(None, b"x"), link(Some([0; 32]), b"x"));
        let mut glued = vec![0; 32];
        glued.push(b'x');
        assert_ne!(link(Some([0; 32]), b"x"), link(None, &glued));
        // The published form: SHA-256 over 0x00 and the bytes.
        assert_eq!(link(None, b"")[..4], [0x6e, 0x34, 0x0b, 0x9c]);
    }

    fn chain(records: &[Vec<u8>]) -> Vec<(Vec<u8>, Hash)> {
        let mut previous = None;
        records
            .iter()
            .map(|bytes| {
                let hash = link(previous, bytes);
                previous = Some(hash);
                (bytes.clone(), hash)
            })
            .collect()
    }

    proptest! {
        #[test]
        fn an_honest_chain_verifies_and_a_changed_record_is_named(
            records in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..20),
            at in any::<prop::sample::Index>(),
        ) {
            let mut links = chain(&records);
            prop_assert_eq!(verify(links.clone()), Ok(links.last().map(|(_, hash)| *hash)));
            let at = at.index(links.len());
            links[at].0.push(7);
            prop_assert_eq!(verify(links).map_err(|broken| broken.index), Err(at));
        }

        #[test]
        fn a_removed_or_swapped_link_breaks_the_chain(
            records in proptest::collection::hash_set("[a-z]{1,8}", 3..10),
            at in any::<prop::sample::Index>(),
        ) {
            let records: Vec<Vec<u8>> = records.into_iter().map(String::into_bytes).collect();
            let links = chain(&records);
            let at = at.index(links.len() - 1);
            let mut without = links.clone();
            without.remove(at);
            prop_assert!(verify(without).is_err());
            let mut swapped = links;
            swapped.swap(at, at + 1);
            prop_assert!(verify(swapped).is_err());
        }

        #[test]
        fn canonical_bytes_read_back_as_the_same_record(fields in proptest::collection::hash_map(".*", any::<i64>(), 0..10)) {
            let record = json!(fields);
            let bytes = canonical(&record).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), record);
        }
    }
}
