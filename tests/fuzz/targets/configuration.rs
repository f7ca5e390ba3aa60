//! Any text: a snapshot or mistakes, never a panic; and every mistake says something.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(mistakes) = weir_config::load(text) {
        assert!(!mistakes.is_empty());
        assert!(mistakes.iter().all(|mistake| !mistake.message.is_empty()));
    }
});
