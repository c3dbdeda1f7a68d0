//! The digests that storage services state for whole files, and their check.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::http::Answer;

/// The digest that the answer to a request for a whole file states, as `<kind>:<hex>`. An ETag is not taken for one:
/// some services use the MD5 of the file, others any text of the same form.
pub(super) fn stated(answer: &Answer) -> Option<String> {
    let values = |name: &'static str| {
        let of_name = answer.headers.iter().filter(move |header| header.0 == name);
        of_name.flat_map(|header| header.1.split(',')).map(str::trim)
    };
    // The digest of the digests of the parts of an upload, which only S3 can check.
    let is_composite = |value: &str| {
        value.contains('-') || answer.header("x-amz-checksum-type").is_some_and(|it| it == "COMPOSITE")
    };
    let whole = |name| values(name).find(|value| !is_composite(value));
    let sha256 = ["repr-digest", "digest"].into_iter().flat_map(values).find_map(|value| {
        let (kind, value) = value.split_once('=')?;
        kind.eq_ignore_ascii_case("sha-256").then(|| value.trim_matches(':'))
    });
    let crc32c = values("x-goog-hash").find_map(|value| value.strip_prefix("crc32c="));
    [
        ("sha256", 32, whole("x-amz-checksum-sha256").or(sha256)),
        ("crc32c", 4, whole("x-amz-checksum-crc32c").or(crc32c)),
        ("crc32", 4, whole("x-amz-checksum-crc32")),
    ]
    .into_iter()
    .find_map(|(kind, n_bytes, value)| {
        let bytes = STANDARD.decode(value?).ok().filter(|it| it.len() == n_bytes)?;
        Some(format!("{kind}:{}", hex(&bytes)))
    })
}

/// Computes the digest of a file of the same kind as `stated`; `None` for an unknown kind. `go_on` is asked between
/// pieces.
pub(super) fn of_file(
    stated: &str,
    path: &Path,
    mut go_on: impl FnMut() -> bool,
) -> io::Result<Option<String>> {
    let kind = stated.split(':').next().unwrap_or_default();
    let Some(mut sum) = Sum::new(kind) else { return Ok(None) };
    let mut file = File::open(path)?;
    let mut piece = vec![0; 128 << 10];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Some(format!("{kind}:{}", sum.end()))),
            n if go_on() => sum.add(&piece[..n]),
            _ => return Ok(None),
        }
    }
}

/// SHA-256 of a text in hexadecimal digits.
pub(super) fn sha256(text: &str) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref())
}

enum Sum {
    Sha256(ring::digest::Context),
    Crc32c(u32),
    Crc32(flate2::Crc),
}

impl Sum {
    fn new(kind: &str) -> Option<Self> {
        Some(match kind {
            "sha256" => Sum::Sha256(ring::digest::Context::new(&ring::digest::SHA256)),
            "crc32c" => Sum::Crc32c(!0),
            "crc32" => Sum::Crc32(flate2::Crc::new()),
            _ => return None,
        })
    }

    fn add(&mut self, bytes: &[u8]) {
        match self {
            Sum::Sha256(context) => context.update(bytes),
            Sum::Crc32c(sum) => {
                for byte in bytes {
                    *sum = (*sum >> 8) ^ CRC32C[usize::from((*sum as u8) ^ byte)];
                }
            }
            Sum::Crc32(sum) => sum.update(bytes),
        }
    }

    fn end(self) -> String {
        match self {
            Sum::Sha256(context) => hex(context.finish().as_ref()),
            Sum::Crc32c(sum) => format!("{:08x}", !sum),
            Sum::Crc32(sum) => format!("{:08x}", sum.sum()),
        }
    }
}

/// The CRC with the polynomial of Castagnoli, byte by byte.
static CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut sum = i as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0x82f6_3b78 } else { sum >> 1 };
            bit += 1;
        }
        table[i] = sum;
        i += 1;
    }
    table
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_digests_of_storage_services_are_found_and_others_are_left_alone() {
        let sha = STANDARD.encode([7; 32]);
        let crc = STANDARD.encode([1, 2, 3, 4]);
        let (of_sha, of_crc) = (format!("sha256:{}", "07".repeat(32)), "01020304".to_string());
        for (name, value, found) in [
            ("x-amz-checksum-sha256", sha.clone(), Some(of_sha.clone())),
            ("x-amz-checksum-sha256", format!("{sha}-3"), None),
            ("repr-digest", format!("md5=:x:, sha-256=:{sha}:"), Some(of_sha.clone())),
            ("digest", format!("SHA-256={sha}"), Some(of_sha)),
            ("x-goog-hash", format!("crc32c={crc},md5=abc"), Some(format!("crc32c:{of_crc}"))),
            ("x-amz-checksum-crc32c", crc.clone(), Some(format!("crc32c:{of_crc}"))),
            ("x-amz-checksum-crc32", crc, Some(format!("crc32:{of_crc}"))),
            ("x-amz-checksum-crc32", "????".into(), None),
            ("etag", "\"d41d8cd98f00b204e9800998ecf8427e\"".into(), None),
        ] {
            assert_eq!(stated(&Answer::new(200).with_header(name, value.clone())), found, "{name}: {value}");
        }
    }

    #[test]
    fn digests_are_those_of_the_standards() {
        let path = std::env::temp_dir().join(format!("tinkex-digest-{}", std::process::id()));
        std::fs::write(&path, "123456789").unwrap();
        for (kind, digest) in [
            ("crc32c:", "crc32c:e3069283"),
            ("crc32:", "crc32:cbf43926"),
            ("sha256:", "sha256:15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
        ] {
            assert_eq!(of_file(kind, &path, || true).unwrap().as_deref(), Some(digest));
        }
        assert_eq!(of_file("md5:", &path, || true).unwrap(), None);
        std::fs::remove_file(path).unwrap();
    }
}
