//! Chunked bodies that lose count, and trailers that say too much.

use super::{Group, INNER};

/// A chunked POST with this body, then what must not be taken for a request.
fn chunked(body: &str) -> Vec<u8> {
    format!("POST /bad HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}{INNER}").into_bytes()
}

/// Bad sizes, extensions and ends.
pub fn chunks() -> Group {
    vec![
        ("chunk size in letters", chunked("x\r\n")),
        ("no chunk size", chunked("\r\n")),
        ("chunk size with minus", chunked("-1\r\n")),
        ("chunk size of minus 0", chunked("-0\r\n\r\n")),
        ("chunk size with plus", chunked("+1\r\na\r\n0\r\n\r\n")),
        ("chunk size with 0x", chunked("0x1\r\na\r\n0\r\n\r\n")),
        ("chunk size with underscore", chunked("1_0\r\n")),
        ("blank before the chunk size", chunked(" 1\r\na\r\n0\r\n\r\n")),
        ("blank after the chunk size", chunked("1 \r\na\r\n0\r\n\r\n")),
        ("tab after the chunk size", chunked("1\t\r\na\r\n0\r\n\r\n")),
        ("CR after the chunk size", chunked("1\r\r\na\r\n0\r\n\r\n")),
        ("LF after the chunk size", chunked("1\na\r\n0\r\n\r\n")),
        ("LF after the last chunk size", chunked("0\n\r\n")),
        ("NUL in the chunk size", chunked("1\0\r\na\r\n0\r\n\r\n")),
        ("comma in the chunk size", chunked("1,1\r\na\r\n0\r\n\r\n")),
        ("chunk size over 64 bits", chunked("10000000000000000\r\n")),
        ("chunk size over 64 bits by digits", chunked("00000000000000001\r\na\r\n0\r\n\r\n")),
        ("chunk extension with LF", chunked("1;a\nb\r\na\r\n0\r\n\r\n")),
        ("chunk extension with CR", chunked("1;a\rb\r\na\r\n0\r\n\r\n")),
        ("chunk extension with NUL", chunked("1;a\0b\r\na\r\n0\r\n\r\n")),
        ("chunk extension with control character", chunked("1;a=\x01\r\na\r\n0\r\n\r\n")),
        ("chunk extension without semicolon", chunked("1 a=b\r\na\r\n0\r\n\r\n")),
        ("endless chunk extension", chunked(&format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(5000)))),
        ("chunk longer than its size", chunked("1\r\nab\r\n0\r\n\r\n")),
        ("chunk shorter than its size", chunked("4\r\nab\r\n0\r\n\r\n")),
        ("chunk that ends in LF", chunked("1\r\na\n0\r\n\r\n")),
        ("chunk that ends in CR", chunked("1\r\na\r0\r\n\r\n")),
        ("chunk that ends in nothing", chunked("1\r\na0\r\n\r\n")),
        ("second chunk malformed", chunked("1\r\na\r\nx\r\n")),
        ("last chunk without empty line", chunked("0\r\n")),
    ]
}

/// Bad trailer sections.
pub fn trailers() -> Group {
    let many = "X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(2000);
    vec![
        ("CL in trailers", chunked("0\r\nContent-Length: 35\r\n\r\n")),
        ("TE in trailers", chunked("0\r\nTransfer-Encoding: chunked\r\n\r\n")),
        ("Host in trailers", chunked("0\r\nHost: b\r\n\r\n")),
        ("Trailer in trailers", chunked("0\r\nTrailer: x\r\n\r\n")),
        ("trailer without colon", chunked("0\r\nnocolon\r\n\r\n")),
        ("trailer without name", chunked("0\r\n: y\r\n\r\n")),
        ("trailer with blank before the colon", chunked("0\r\nX : y\r\n\r\n")),
        ("trailer with fold", chunked("0\r\nX: y\r\n z\r\n\r\n")),
        ("trailer with LF", chunked("0\r\nX: y\n\r\n")),
        ("trailer with CR", chunked("0\r\nX: y\rz\r\n\r\n")),
        ("trailer with NUL", chunked("0\r\nX: y\0\r\n\r\n")),
        ("trailer with control character", chunked("0\r\nX: y\x01\r\n\r\n")),
        ("trailers ended by LF", chunked("0\r\nX: y\r\n\n")),
        ("trailers over 64 KiB", chunked(&format!("0\r\n{many}\r\n"))),
        ("201 trailers", chunked(&format!("0\r\n{}\r\n", "X: y\r\n".repeat(201)))),
    ]
}
