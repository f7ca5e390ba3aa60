//! Normal forms are normal: no dot segments, no repeated slashes, and normalising again changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_config::path::{normalise, normalise_host};

fuzz_target!(|path: &str| {
    let _ = normalise_host(path);
    let Ok(normal) = normalise(path) else { return };
    if normal.starts_with('/') {
        assert!(!normal.contains("//"));
        assert!(!normal.split('/').any(|segment| segment == "." || segment == ".."));
    }
    assert_eq!(normalise(&normal).as_deref(), Ok(&*normal));
});
