//! Manifests: whatever is read can be written and read again, injecting twice is injecting once, and reviews are answered.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_deploy::inject::{Settings, inject, review, uninject};
use weir_deploy::manifest::{Node, read, write};

fuzz_target!(|text: &str| {
    let settings = Settings::default();
    let _ = review::answer(text.as_bytes(), &settings);
    let Ok(mut documents) = read(text) else { return };
    // A document that is a word or a list is no manifest, and comments find no place at it.
    if documents.iter().any(|document| !matches!(document.root, None | Some(Node::Map(..)))) {
        return;
    }
    let written = write(&documents);
    let again = read(&written).unwrap_or_else(|error| panic!("{error}\n{written}"));
    assert_eq!(write(&again), written);
    if inject(&mut documents, &settings).is_err() {
        return;
    }
    let once = write(&documents);
    let mut documents = read(&once).unwrap_or_else(|error| panic!("{error}\n{once}"));
    assert!(inject(&mut documents, &settings).is_ok());
    assert_eq!(write(&documents), once);
    uninject(&mut documents);
});
