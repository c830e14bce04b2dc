//! The house rules on this checkout.

#[test]
fn this_checkout_keeps_the_house_rules() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let checkout = tidy::Checkout::read(&root).expect("the checkout is a git repository and can be read");
    let complaints = tidy::all(&checkout);
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}
