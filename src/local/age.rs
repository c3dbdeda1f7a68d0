//! Encryption of files in the format of age, version 1 (`age-encryption.org/v1`), for recipients with X25519 keys.
//!
//! A file starts with a header that holds the file's key, encrypted for each recipient, and a code that authenticates
//! the header. The content follows in chunks, each encrypted and authenticated on its own. `ring` has the primitives;
//! this file only puts them together.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bech32::Bech32;
use bech32::primitives::decode::CheckedHrpstring;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use ring::error::Unspecified;
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::hmac::{self, HMAC_SHA256};
use ring::rand::{SecureRandom, SystemRandom};

/// Ending of the name of an encrypted file.
pub(super) const ENDING: &str = ".age";

/// Largest number of recipients of a file, by the protocol.
const MAX_RECIPIENTS: usize = 10;

/// Field of the request that names the recipients.
const PATH: &str = "age_encryption_recipients";

/// First line of a file.
const VERSION: &str = "age-encryption.org/v1\n";
/// Purpose of the key that encrypts the file's key for a recipient.
const X25519_LABEL: &[u8] = b"age-encryption.org/v1/X25519";
/// Bytes of a chunk of the content.
const CHUNK: usize = 64 << 10;
/// Bytes of the key of a file.
const FILE_KEY: usize = 16;

/// A public key of age, `age1…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recipient([u8; 32]);

impl Recipient {
    /// Reads the recipients of a request.
    ///
    /// # Errors
    /// There are too many, or one is not a key that files can be encrypted for; the text starts with the field's path.
    /// It does not contain the key, which may be a secret one by mistake.
    pub(super) fn read_all(texts: &[String]) -> Result<Vec<Recipient>, String> {
        if MAX_RECIPIENTS < texts.len() {
            let n = texts.len();
            return Err(format!("{PATH}: has {n} recipients, the limit is {MAX_RECIPIENTS}"));
        }
        let one = |(i, text): (usize, &String)| {
            Recipient::read(text).map_err(|problem| format!("{PATH}[{i}]: {problem}"))
        };
        texts.iter().enumerate().map(one).collect()
    }

    fn read(text: &str) -> Result<Recipient, String> {
        if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
            return Err("is a secret key; give the public key, which starts with \"age1\"".into());
        }
        let not_valid = |problem: &str| {
            format!(
                "{problem}; only X25519 public keys of age are offered here, 62 characters from \"age1\" on"
            )
        };
        // Encoding the key again refuses what some decoders let pass: upper case, and bits beyond the last byte.
        let decoded = CheckedHrpstring::new::<Bech32>(text).map_err(|it| not_valid(&it.to_string()))?;
        let bytes: Vec<u8> = decoded.byte_iter().collect();
        let again = bech32::encode::<Bech32>(decoded.hrp(), &bytes);
        let key: Option<[u8; 32]> = bytes.try_into().ok();
        let key = key.filter(|_| again.is_ok_and(|it| it == text && it.starts_with("age1")));
        let recipient = Recipient(key.ok_or_else(|| not_valid("is another kind of key"))?);
        // A key of low order is found only by using it: the secret that it makes is zero, which anybody can guess.
        match recipient.stanza(&SystemRandom::new(), &[0; FILE_KEY]) {
            Ok(_) => Ok(recipient),
            Err(Unspecified) => Err(not_valid("makes no secret")),
        }
    }

    /// The part of the header with the key of the file, encrypted for this recipient.
    fn stanza(&self, random: &SystemRandom, file_key: &[u8; FILE_KEY]) -> Result<String, Unspecified> {
        let own = EphemeralPrivateKey::generate(&X25519, random)?;
        let share = own.compute_public_key()?;
        let salt = [share.as_ref(), &self.0].concat();
        let peer = UnparsedPublicKey::new(&X25519, self.0);
        let key = agree_ephemeral(own, &peer, |secret| derive(&salt, secret, X25519_LABEL))??;
        let mut body = file_key.to_vec();
        seal(&key, [0; NONCE_LEN], &mut body, 0)?;
        Ok(format!("-> X25519 {}\n{}\n", STANDARD_NO_PAD.encode(share), STANDARD_NO_PAD.encode(body)))
    }
}

/// Encrypts a file so that each of the recipients can read it.
///
/// # Errors
/// The system gives no random numbers.
pub(super) fn encrypt(content: &[u8], recipients: &[Recipient]) -> Result<Vec<u8>, String> {
    seal_file(content, recipients).map_err(|Unspecified| "the file cannot be encrypted".to_string())
}

fn seal_file(content: &[u8], recipients: &[Recipient]) -> Result<Vec<u8>, Unspecified> {
    let random = SystemRandom::new();
    let mut file_key = [0; FILE_KEY];
    random.fill(&mut file_key)?;
    let mut header = VERSION.to_string();
    for recipient in recipients {
        header.push_str(&recipient.stanza(&random, &file_key)?);
    }
    header.push_str("---");
    let code =
        hmac::sign(&hmac::Key::new(HMAC_SHA256, &derive(&[], &file_key, b"header")?), header.as_bytes());
    header.push_str(&format!(" {}\n", STANDARD_NO_PAD.encode(code)));

    let mut salt = [0; 16];
    random.fill(&mut salt)?;
    let key = derive(&salt, &file_key, b"payload")?;
    let n_chunks = content.len().div_ceil(CHUNK).max(1);
    let tags = n_chunks * CHACHA20_POLY1305.tag_len();
    let mut file = Vec::with_capacity(header.len() + salt.len() + content.len() + tags);
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&salt);
    // Even an empty file has a chunk, which says that it is the last one.
    for i in 0..n_chunks {
        let start = file.len();
        let end = content.len().min((i + 1) * CHUNK);
        file.extend_from_slice(&content[i * CHUNK..end]);
        seal(&key, nonce(i as u64, i + 1 == n_chunks), &mut file, start)?;
    }
    Ok(file)
}

/// Nonce of a chunk: its number as 11 bytes, and a byte that marks the last chunk.
fn nonce(number: u64, is_last: bool) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[3..11].copy_from_slice(&number.to_be_bytes());
    nonce[11] = u8::from(is_last);
    nonce
}

fn derive(salt: &[u8], secret: &[u8], label: &[u8]) -> Result<[u8; 32], Unspecified> {
    let mut key = [0; 32];
    Salt::new(HKDF_SHA256, salt).extract(secret).expand(&[label], HKDF_SHA256)?.fill(&mut key)?;
    Ok(key)
}

/// Encrypts the bytes of `file` from `start` on, in place, and appends their tag.
fn seal(key: &[u8; 32], nonce: [u8; NONCE_LEN], file: &mut Vec<u8>, start: usize) -> Result<(), Unspecified> {
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key)?);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut file[start..])?;
    file.extend_from_slice(tag.as_ref());
    Ok(())
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    /// A pair of keys that can decrypt one file.
    fn identity() -> (EphemeralPrivateKey, String) {
        let secret = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).expect("a key");
        let public = secret.compute_public_key().expect("a key");
        let hrp = bech32::Hrp::parse("age").expect("a prefix");
        (secret, bech32::encode::<Bech32>(hrp, public.as_ref()).expect("a text"))
    }

    fn open(key: &[u8; 32], nonce: [u8; NONCE_LEN], sealed: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key)?);
        let mut bytes = sealed.to_vec();
        let n = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut bytes)?.len();
        bytes.truncate(n);
        Ok(bytes)
    }

    /// Decrypts a file as the specification says, with the stanza of recipient `index`.
    fn decrypt(file: &[u8], index: usize, secret: EphemeralPrivateKey) -> Result<Vec<u8>, Unspecified> {
        let mac_at = file.windows(5).position(|it| it == b"\n--- ").ok_or(Unspecified)? + 4;
        let header = str::from_utf8(&file[..mac_at]).map_err(|_| Unspecified)?;
        let lines: Vec<&str> = header.lines().collect();
        assert_eq!(lines[0], "age-encryption.org/v1");
        let share = lines[1 + 2 * index].strip_prefix("-> X25519 ").ok_or(Unspecified)?;
        let share = STANDARD_NO_PAD.decode(share).map_err(|_| Unspecified)?;
        let body = STANDARD_NO_PAD.decode(lines[2 + 2 * index]).map_err(|_| Unspecified)?;
        let salt = [&share[..], secret.compute_public_key()?.as_ref()].concat();
        let peer = UnparsedPublicKey::new(&X25519, share);
        let key = agree_ephemeral(secret, &peer, |shared| derive(&salt, shared, X25519_LABEL))??;
        let file_key = open(&key, [0; NONCE_LEN], &body)?;
        let (code, rest) = file[mac_at + 1..].split_at(43);
        let code = STANDARD_NO_PAD.decode(code).map_err(|_| Unspecified)?;
        let mac_key = hmac::Key::new(HMAC_SHA256, &derive(&[], &file_key, b"header")?);
        hmac::verify(&mac_key, header.as_bytes(), &code)?;
        let (salt, chunks) = rest[1..].split_at(16);
        let key = derive(salt, &file_key, b"payload")?;
        let chunks: Vec<&[u8]> = chunks.chunks(CHUNK + 16).collect();
        let mut content = Vec::new();
        for (i, chunk) in chunks.iter().enumerate() {
            content.extend(open(&key, nonce(i as u64, i + 1 == chunks.len()), chunk)?);
        }
        Ok(content)
    }

    #[test]
    fn each_recipient_decrypts_files_of_any_length_and_nobody_else_does() {
        for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let content: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let ((first, a), (second, b)) = (identity(), identity());
            let recipients = Recipient::read_all(&[a, b]).expect("recipients");
            let file = encrypt(&content, &recipients).expect("a file");
            assert_eq!(decrypt(&file, 0, first), Ok(content.clone()), "{len}");
            assert_eq!(decrypt(&file, 1, second), Ok(content.clone()), "{len}");
            assert_eq!(decrypt(&file, 0, identity().0), Err(Unspecified), "{len}");
            assert!(len < 64 || !file.windows(64).any(|it| it == &content[..64]), "{len}");
        }
    }

    #[test]
    fn a_changed_file_is_noticed_and_no_two_files_are_equal() {
        let (_, key) = identity();
        let recipients = Recipient::read_all(&[key]).expect("a recipient");
        assert_ne!(encrypt(b"abc", &recipients), encrypt(b"abc", &recipients));
        let changes: [fn(&mut Vec<u8>); 3] = [
            |it| *it.last_mut().expect("a byte") ^= 1,
            |it| it.truncate(it.len() - CHUNK / 2),
            |it| it[30] ^= 1,
        ];
        for change in changes {
            let (secret, key) = identity();
            let recipients = Recipient::read_all(&[key]).expect("a recipient");
            let mut file = encrypt(&[7; 2 * CHUNK], &recipients).expect("a file");
            change(&mut file);
            assert!(decrypt(&file, 0, secret).is_err());
        }
    }

    #[test]
    fn what_is_not_a_public_key_is_refused_with_its_place_and_without_its_text() {
        let (_, good) = identity();
        // The first key is that of the documentation of age.
        let known = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
        assert!(Recipient::read_all(&[known.into(), good.clone()]).is_ok());
        let swapped = known.replacen("ql3z", "q3lz", 1);
        let hrp = bech32::Hrp::parse("age").expect("a prefix");
        let encoded = |bytes: &[u8]| bech32::encode::<Bech32>(hrp, bytes).expect("a text");
        let other_sum = bech32::encode::<bech32::Bech32m>(hrp, &[9; 32]).expect("a text");
        let mut one = [0; 32];
        one[0] = 1;
        let wrong = [
            String::new(),
            "age1".into(),
            "age1example".into(),
            swapped,
            good.to_uppercase(),
            format!("{good} "),
            encoded(&[9; 31]),
            encoded(&[9; 33]),
            other_sum,
            // Points of low order.
            encoded(&[0; 32]),
            encoded(&one),
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBHKZ2TbvXAN8Hbrr3".into(),
            "age1yubikey1q0123456789".into(),
            "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX".into(),
        ];
        for text in wrong {
            let error = Recipient::read_all(&[good.clone(), text.clone()]).expect_err(&text);
            assert!(error.starts_with("age_encryption_recipients[1]: "), "{error}");
            assert!(text.len() < 12 || !error.contains(&text[4..]), "{error}");
        }
        let error = Recipient::read_all(&vec![good; 11]).expect_err("too many");
        assert_eq!(error, "age_encryption_recipients: has 11 recipients, the limit is 10");
    }
}
