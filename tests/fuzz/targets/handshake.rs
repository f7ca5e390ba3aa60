//! What peers show before anybody knows them: a ClientHello, which must be read alike in whatever pieces it comes; a certificate,
//! whose SPIFFE ID is in normal form or none; an agent's message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::opening::hello_of;
use weir::tls::identity::Identity;
use weir::tls::verify::spiffe_id;
use weir::tls::workload::parts;
use weir_config::spiffe::SpiffeId;

fuzz_target!(|data: &[u8]| {
    let whole = hello_of(&[data]);
    for cut in [1, 2, 5, 43] {
        if let Some((first, rest)) = data.split_at_checked(cut) {
            assert_eq!(hello_of(&[first, rest]), whole);
        }
    }
    if let Ok(id) = spiffe_id(&data.into()) {
        assert_eq!(SpiffeId::parse(id.as_str()).as_ref(), Ok(&id));
    }
    if let Ok(parts) = parts(&bytes::Bytes::copy_from_slice(data)) {
        let _ = Identity::new(parts);
    }
});
