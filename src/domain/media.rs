//! Media of messages: which types there are, how large they may be, and where a message names one (contracts/meta-cloud-api.md 9).

use serde_json::Value;

/// What WhatsApp makes of a file; also the message type that carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaKind {
    Audio,
    Document,
    Image,
    Sticker,
    Video,
}

impl MediaKind {
    pub const ALL: [Self; 5] = [Self::Audio, Self::Document, Self::Image, Self::Sticker, Self::Video];

    pub fn name(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Document => "document",
            Self::Image => "image",
            Self::Sticker => "sticker",
            Self::Video => "video",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Largest file, in bytes.
    pub fn max_bytes(self) -> usize {
        match self {
            Self::Audio | Self::Video => 16 << 20,
            Self::Document => 100 << 20,
            Self::Image => 5 << 20,
            // Of an animated one.
            Self::Sticker => 500 << 10,
        }
    }

    /// Largest size of this file, in bytes: a sticker that does not move may have less.
    pub fn max_bytes_of(self, file: &[u8]) -> usize {
        if self == Self::Sticker && !is_animated(file) { STILL_STICKER_MAX_BYTES } else { self.max_bytes() }
    }
}

const STILL_STICKER_MAX_BYTES: usize = 100 << 10;

/// Of a WebP: its first chunk is an extended header, with the flag of an animation.
fn is_animated(webp: &[u8]) -> bool {
    webp.get(12..16) == Some(b"VP8X") && webp.get(20).is_some_and(|flags| flags & 0b10 != 0)
}

/// Largest file of all, in bytes.
pub const MAX_BYTES: usize = 100 << 20;

const OFFICE: &str = "application/vnd.openxmlformats-officedocument.";

/// The kind of a MIME type, without its parameters; `None`: WhatsApp does not take it.
pub fn kind_of(mime_type: &str) -> Option<MediaKind> {
    Some(match essence(mime_type).as_str() {
        "audio/aac" | "audio/amr" | "audio/mpeg" | "audio/mp4" | "audio/ogg" => MediaKind::Audio,
        "image/jpeg" | "image/png" => MediaKind::Image,
        "image/webp" => MediaKind::Sticker,
        "video/mp4" | "video/3gpp" => MediaKind::Video,
        "text/plain"
        | "application/pdf"
        | "application/msword"
        | "application/vnd.ms-excel"
        | "application/vnd.ms-powerpoint" => MediaKind::Document,
        office => match office.strip_prefix(OFFICE)? {
            "wordprocessingml.document" | "spreadsheetml.sheet" | "presentationml.presentation" => MediaKind::Document,
            _ => return None,
        },
    })
}

/// `image/jpeg` of `Image/JPEG; q=1`.
pub fn essence(mime_type: &str) -> String {
    mime_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether a file begins as files of its type do; types without a mark always fit.
pub fn looks_like(mime_type: &str, file: &[u8]) -> bool {
    let at = |place: usize, mark: &[u8]| file.get(place..).is_some_and(|rest| rest.starts_with(mark));
    match essence(mime_type).as_str() {
        "image/jpeg" => at(0, b"\xFF\xD8\xFF"),
        "image/png" => at(0, b"\x89PNG\r\n\x1A\n"),
        "image/webp" => at(0, b"RIFF") && at(8, b"WEBP"),
        "application/pdf" => at(0, b"%PDF-"),
        "audio/ogg" => at(0, b"OggS"),
        "audio/amr" => at(0, b"#!AMR"),
        "video/mp4" | "audio/mp4" | "video/3gpp" => at(4, b"ftyp"),
        mime_type if mime_type.starts_with(OFFICE) => at(0, b"PK"),
        _ => true,
    }
}

/// Calls `see` for every `{"<kind>": {"id": …}}` inside a message's content or body, however deep.
pub fn visit<'v>(value: &'v mut Value, see: &mut impl FnMut(MediaKind, &'v mut Value)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| visit(item, see)),
        Value::Object(fields) => {
            for (name, field) in fields {
                match MediaKind::from_name(name).filter(|_| field["id"].is_string()) {
                    Some(kind) => see(kind, &mut field["id"]),
                    None => visit(field, see),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn types_have_a_kind_whatever_their_case_and_parameters() {
        assert_eq!(kind_of("Audio/OGG; codecs=opus"), Some(MediaKind::Audio));
        assert_eq!(kind_of("image/webp"), Some(MediaKind::Sticker));
        assert_eq!(kind_of(&format!("{OFFICE}spreadsheetml.sheet")), Some(MediaKind::Document));
        for other in ["", "image/gif", "text/html", "application/zip", "image", &format!("{OFFICE}other")] {
            assert_eq!(kind_of(other), None, "{other}");
        }
        assert!(
            MediaKind::ALL.iter().all(|kind| kind.max_bytes() <= MAX_BYTES && MediaKind::from_name(kind.name()) == Some(*kind))
        );
    }

    #[test]
    fn a_file_must_be_what_it_is_called() {
        assert!(looks_like("image/png", b"\x89PNG\r\n\x1A\n...."));
        assert!(!looks_like("image/png", b"GIF89a"));
        assert!(!looks_like("image/jpeg", b""));
        assert!(looks_like("text/plain", b"anything"));
    }

    #[test]
    fn a_sticker_that_does_not_move_is_smaller() {
        let animated = b"RIFF\x10\0\0\0WEBPVP8X\x0A\0\0\0\x02\0\0\0";
        let still = b"RIFF\x10\0\0\0WEBPVP8X\x0A\0\0\0\x10\0\0\0";
        assert_eq!(MediaKind::Sticker.max_bytes_of(animated), 500 << 10);
        for still in [&still[..], b"RIFF\x10\0\0\0WEBPVP8L", b""] {
            assert_eq!(MediaKind::Sticker.max_bytes_of(still), 100 << 10);
        }
        assert_eq!(MediaKind::Image.max_bytes_of(still), 5 << 20);
    }

    #[test]
    fn every_named_file_of_a_body_is_found() {
        let mut body = json!({
            "image": { "id": "1", "caption": "x" },
            "template": { "components": [{ "parameters": [{ "type": "video", "video": { "id": "2" } }, { "document": { "link": "https://x" } }] }] },
            "interactive": { "header": { "type": "document", "document": { "id": "3" } } },
            "text": { "id": "no" }
        });
        let mut seen = Vec::new();
        visit(&mut body, &mut |kind, id| {
            seen.push((kind.name(), id.as_str().unwrap_or_default().to_owned()));
            *id = json!("m");
        });
        seen.sort();
        assert_eq!(seen, [("document", "3".into()), ("image", "1".into()), ("video", "2".into())]);
        assert_eq!((&body["image"]["id"], &body["text"]["id"]), (&json!("m"), &json!("no")));
    }
}
