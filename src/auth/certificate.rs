//! Identity in a client certificate.

use std::fmt::Write as _;

use x509_parser::{
    asn1_rs::{Tag, ToDer as _},
    certificate::X509Certificate,
    extensions::GeneralName,
    prelude::FromDer as _,
    x509::{AttributeTypeAndValue, X509Name},
};

const SCHEME: &str = "spiffe";
const SPIFFE: &str = "spiffe://";
/// Longer identities are refused: they go into logs and idempotency records.
const MAX_IDENTITY: usize = 2048;

/// What attributes are called in a subject (RFC 4514, section 3).
const ATTRIBUTES: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// The identity of a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Its holder.
    Of(String),
    /// It has no identity that distinguishes its holder.
    Nobody,
}

impl Identity {
    /// The identity that a verified certificate stands for: its SPIFFE URI, else its
    /// subject as RFC 4514 writes it. Nameless if it has neither, several SPIFFE URIs or
    /// one that is none (an X.509-SVID has exactly one, by the SPIFFE specification).
    #[must_use]
    pub fn read(der: &[u8]) -> Self {
        match identity(der) {
            Some(identity) if identity.len() <= MAX_IDENTITY => Self::Of(identity),
            _ => Self::Nobody,
        }
    }
}

/// The last second in which a certificate is valid, since 1970. None for one that cannot
/// be read, or that has expired before 1970.
#[must_use]
pub fn not_after(der: &[u8]) -> Option<u64> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let end = certificate.validity().not_after.timestamp();
    end.try_into().ok()
}

fn identity(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    match spiffe(&certificate)? {
        Some(uri) => Some(uri),
        None => distinguished_name(certificate.subject()),
    }
}

/// Its SPIFFE URI if it has one; None if it is no valid certificate of that kind.
fn spiffe(certificate: &X509Certificate<'_>) -> Option<Option<String>> {
    let Some(names) = certificate.subject_alternative_name().ok()? else {
        return Some(None);
    };
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            // Schemes are compared without case (RFC 3986, section 3.1).
            GeneralName::URI(uri)
                if uri
                    .split_once(':')
                    .is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case(SCHEME)) =>
            {
                Some(*uri)
            }
            _ => None,
        });
    let first = uris.next();
    match (first, uris.next()) {
        (None, _) => Some(None),
        (Some(uri), None) if is_spiffe_id(uri) => Some(Some(uri.to_owned())),
        _ => None,
    }
}

/// Whether it is written as the SPIFFE specification asks: a trust domain and a path of
/// segments, none of them empty or relative, without escapes, query or fragment.
fn is_spiffe_id(uri: &str) -> bool {
    let Some(rest) = uri.strip_prefix(SPIFFE) else {
        return false;
    };
    let mut segments = rest.split('/');
    let domain = segments.next().unwrap_or_default();
    let of_domain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
    };
    let of_path = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=255).contains(&domain.len())
        && domain.bytes().all(of_domain)
        && segments.all(|it| !matches!(it, "" | "." | "..") && it.bytes().all(of_path))
}

/// A name as RFC 4514 writes it, most specific part first: `CN=ada,O=ops`. Two different
/// names never read alike. None for one without any part.
fn distinguished_name(name: &X509Name<'_>) -> Option<String> {
    let parts: Option<Vec<String>> = name
        .iter()
        .map(|part| {
            let attributes: Option<Vec<String>> = part.iter().map(attribute).collect();
            let attributes = attributes.filter(|attributes| !attributes.is_empty());
            attributes.map(|attributes| attributes.join("+"))
        })
        .collect();
    let mut parts = parts.filter(|parts| !parts.is_empty())?;
    parts.reverse();
    Some(parts.join(","))
}

/// A type and a value. A value that is no plain text, or of a type without a name, is
/// written in hexadecimal, as it is encoded (RFC 4514, section 2.4).
fn attribute(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let kind = attribute.attr_type().to_id_string();
    let name = ATTRIBUTES.iter().find(|(oid, _)| *oid == kind);
    let value = attribute.attr_value();
    let text = match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String => {
            std::str::from_utf8(value.data).ok()
        }
        _ => None,
    };
    match (name, text) {
        (Some((_, name)), Some(text)) => Some(format!("{name}={}", escaped(text))),
        _ => {
            let name = name.map_or(kind.as_str(), |(_, name)| name);
            let encoded = value.to_der_vec_raw().ok()?;
            let mut written = format!("{name}=#");
            for byte in encoded {
                write!(written, "{byte:02x}").ok()?;
            }
            Some(written)
        }
    }
}

/// Text with everything escaped that would end the value, be taken for an encoded one or
/// for blanks around it, or that cannot be seen.
fn escaped(text: &str) -> String {
    let last = text.chars().count().saturating_sub(1);
    let mut written = String::with_capacity(text.len());
    for (place, char) in text.chars().enumerate() {
        let special = match char {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => true,
            '#' => place == 0,
            ' ' => place == 0 || place == last,
            _ => false,
        };
        if special {
            written.push('\\');
            written.push(char);
        } else if char.is_control() || is_invisible(char) {
            let mut bytes = [0; 4];
            for byte in char.encode_utf8(&mut bytes).bytes() {
                // Writing to a string does not fail.
                let _ = write!(written, "\\{byte:02X}");
            }
        } else {
            written.push(char);
        }
    }
    written
}

/// Characters that change how others are shown, and blanks that look like others or like
/// nothing.
const fn is_invisible(char: char) -> bool {
    matches!(char, '\u{ad}' | '\u{a0}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}'
        | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2800}' | '\u{3000}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0100}'..='\u{e01ef}' | '\u{2000}'..='\u{200f}' | '\u{2028}'..='\u{202f}'
        | '\u{205f}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_by_rfc_4514() {
        for (text, written) in [
            ("ada", "ada"),
            ("Ada Lovelace", "Ada Lovelace"),
            ("James \"Jim\" Smith, III", "James \\\"Jim\\\" Smith\\, III"),
            ("Before\rAfter", "Before\\0DAfter"),
            ("admin\nerror", "admin\\0Aerror"),
            ("#hash # not", "\\#hash # not"),
            (" a ", "\\ a\\ "),
            (" ", "\\ "),
            ("a\\,b", "a\\\\\\,b"),
            ("a=b+c;<d>", "a\\=b\\+c\\;\\<d\\>"),
            ("Lučić", "Lučić"),
            ("a\u{202e}b", "a\\E2\\80\\AEb"),
            ("a\0b", "a\\00b"),
            ("a\u{3164}", "a\\E3\\85\\A4"),
            ("a\u{61c}", "a\\D8\\9C"),
        ] {
            assert_eq!(escaped(text), written);
        }
    }

    #[test]
    fn spiffe_ids_are_those_of_the_specification() {
        for good in [
            "spiffe://mesh",
            "spiffe://mesh.example_1-a/ns/default/sa/Orders.v2_x-y",
        ] {
            assert!(is_spiffe_id(good), "{good}");
        }
        for bad in [
            "spiffe://",
            "SPIFFE://mesh/a",
            "spiffe://Mesh/a",
            "spiffe://mesh/",
            "spiffe://mesh//a",
            "spiffe://mesh/../a",
            "spiffe://mesh/a%0a",
            "spiffe://mesh/a\nb",
            "spiffe://mesh/a b",
            "spiffe://mesh:80/a",
            "spiffe://user@mesh/a",
            "spiffe://mesh/a?b",
            "spiffe://mesh/a#b",
        ] {
            assert!(!is_spiffe_id(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_nobodys() {
        assert_eq!(Identity::read(b"no certificate"), Identity::Nobody);
        assert_eq!(not_after(b"no certificate"), None);
    }
}
