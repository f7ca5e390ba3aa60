//! How a head was spelled: the case of its field names, and its reason phrase.
//!
//! HTTP/1 names have no case, yet programs that compare them byte for byte exist. A header map knows lower case only, so
//! the bytes of the head are kept beside it, and on the way out each name is looked up there. Names that weir adds are
//! in lower case.

use bytes::Bytes;

/// The spelling of one head. The default knows no names: all are written in lower case.
#[derive(Debug, Clone, Default)]
pub struct Spelling {
    head: Bytes,
    /// Where each field's name begins, and its length; in the order of the fields. Empty if all are in lower case.
    names: Vec<(u32, u32)>,
    reason: (u32, u32),
}

impl Spelling {
    /// The spelling of `head`, whose fields have these names. All of them are slices of `head`.
    pub fn of(head: &Bytes, fields: &[httparse::Header<'_>], reason: &str) -> Self {
        let at = |part: &str| {
            let from = (part.as_ptr() as usize).wrapping_sub(head.as_ptr() as usize);
            debug_assert!(part.is_empty() || from + part.len() <= head.len());
            (u32::try_from(from).unwrap_or(0), u32::try_from(part.len()).unwrap_or(0))
        };
        let has_upper = fields.iter().any(|field| field.name.bytes().any(|b| b.is_ascii_uppercase()));
        let names = if has_upper { fields.iter().map(|field| at(field.name)).collect() } else { Vec::new() };
        let reason = if reason.is_empty() { (0, 0) } else { at(reason) };
        if names.is_empty() && reason.1 == 0 {
            return Self::default();
        }
        Self { head: head.clone(), names, reason }
    }

    /// The reason phrase, as it came.
    pub fn reason(&self) -> &[u8] {
        self.part(self.reason)
    }

    fn part(&self, (from, length): (u32, u32)) -> &[u8] {
        self.head.get(from as usize..(from + length) as usize).unwrap_or_default()
    }

    /// Finds names in the order in which they are asked for.
    pub fn reader(&self) -> Reader<'_> {
        Reader { spelling: self, next: 0 }
    }
}

/// Looks names up, best in the order in which they came.
pub struct Reader<'s> {
    spelling: &'s Spelling,
    next: usize,
}

impl<'s> Reader<'s> {
    /// The name as it was spelled, or as it is given if it was not there.
    pub fn spell(&mut self, name: &'s str) -> &'s [u8] {
        let names = &self.spelling.names;
        let (before, after) = names.split_at(self.next.min(names.len()));
        let numbered = after.iter().enumerate().map(|(i, at)| (self.next + i, at));
        for (number, at) in numbered.chain(before.iter().enumerate()) {
            if at.1 as usize == name.len() {
                let spelled = self.spelling.part(*at);
                if is_spelling_of(spelled, name.as_bytes()) {
                    self.next = number + 1;
                    return spelled;
                }
            }
        }
        name.as_bytes()
    }
}

/// Whether `spelled` is `name`, which is as long and in lower case. By words and not by bytes: this is asked about every
/// field of every message.
fn is_spelling_of(spelled: &[u8], name: &[u8]) -> bool {
    let (words, rest) = spelled.as_chunks::<8>();
    let (name_words, name_rest) = name.as_chunks::<8>();
    if let (Some(last), Some(name_last)) = (spelled.last_chunk::<8>(), name.last_chunk::<8>()) {
        // The last word overlaps the one before it, which is as good as a rest.
        words.iter().zip(name_words).all(|(a, b)| is_same_word(*a, *b)) && is_same_word(*last, *name_last)
    } else {
        rest.eq_ignore_ascii_case(name_rest)
    }
}

/// Whether the bytes differ in the case of letters at most.
fn is_same_word(spelled: [u8; 8], name: [u8; 8]) -> bool {
    let name = u64::from_le_bytes(name);
    let mut differs = u64::from_le_bytes(spelled) ^ name;
    if differs & !0x2020_2020_2020_2020 != 0 {
        return false;
    }
    while differs != 0 {
        let byte = (name >> (differs.trailing_zeros() & !7)) as u8;
        if !byte.is_ascii_lowercase() {
            return false;
        }
        differs &= differs - 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_is_all_that_may_differ() {
        let mut random = fastrand::Rng::with_seed(3);
        let bytes = b"abcxyz019-_~^`{@[!";
        let mut same = 0;
        for _ in 0..20_000 {
            let length = random.usize(0..30);
            let name: Vec<u8> = (0..length).map(|_| bytes[random.usize(..bytes.len())].to_ascii_lowercase()).collect();
            let mut spelled: Vec<u8> = name.iter().map(|b| if random.bool() { b.to_ascii_uppercase() } else { *b }).collect();
            if random.bool()
                && let Some(byte) = spelled.get_mut(random.usize(..30))
            {
                // Where 0x20 is no letter's case.
                *byte ^= 0x20;
            }
            let expected = spelled.eq_ignore_ascii_case(&name);
            same += u32::from(expected);
            assert_eq!(is_spelling_of(&spelled, &name), expected, "{spelled:?} {name:?}");
        }
        assert!((5_000..19_000).contains(&same), "{same}");
    }

    fn spelling(head: &'static str) -> Spelling {
        let bytes = Bytes::from_static(head.as_bytes());
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut fields);
        assert!(response.parse(head.as_bytes()).is_ok_and(|status| status.is_complete()));
        Spelling::of(&bytes, response.headers, response.reason.unwrap_or_default())
    }

    #[test]
    fn names_are_found_in_any_order_and_repeated_ones_each_in_its_own_case() {
        let spelling = spelling("HTTP/1.1 200 Fine\r\nX-A: 1\r\nx-b: 2\r\nX-a: 3\r\nETag: 4\r\n\r\n");
        assert_eq!(spelling.reason(), b"Fine");
        let mut reader = spelling.reader();
        for (name, spelled) in [("x-a", "X-A"), ("x-a", "X-a"), ("x-b", "x-b"), ("etag", "ETag"), ("x-a", "X-A"), ("new", "new")]
        {
            assert_eq!(std::str::from_utf8(reader.spell(name)), Ok(spelled));
        }
    }

    #[test]
    fn lower_case_costs_nothing() {
        let spelling = spelling("HTTP/1.1 200 \r\nx-a: 1\r\n\r\n");
        assert!(spelling.head.is_empty() && spelling.names.is_empty());
        assert_eq!(spelling.reader().spell("x-a"), b"x-a");
    }
}
