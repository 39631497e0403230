//! Hostile images through the whole stack: layers and registries that try to get out, to exhaust or to confuse, given to a real
//! supervisor beside a workspace that runs all along.
//!
//! Whatever is refused is refused with the structured failure `imagePull` and one line that says what is wrong, within a time
//! limit; the supervisor and the bystander do not notice; nothing stays on disk; and the same workspace starts once the
//! image or the registry is mended. Whatever is made harmless instead is looked at from inside.
//! `docs/bad-input.md` says which test covers which kind of bad input, here and elsewhere.

mod accepted;
mod ground;
mod refused;
mod registries;

use std::process::ExitCode;

use cordium_tests::Suite;
use ground::Ground;

fn main() -> ExitCode {
    Suite::new("hostile_images")
        .case("layers_that_lead_out", refused::layers_that_lead_out)
        .case("whiteouts_of_the_root", refused::whiteouts_of_the_root)
        .case("entries_that_nobody_can_make", refused::entries_that_nobody_can_make)
        .case("names_that_are_too_long", refused::names_that_are_too_long)
        .case("streams_that_are_no_layer", refused::streams_that_are_no_layer)
        .case("compression_bombs", refused::compression_bombs)
        .case("ten_million_empty_entries", refused::ten_million_empty_entries)
        .case("layouts_that_lie", refused::layouts_that_lie)
        .case("more_layers_than_an_overlay_takes", refused::too_many_layers)
        .case("registries_that_lie", registries::that_lie)
        .case("registries_that_break_off", registries::that_break_off)
        .case("registries_that_never_answer", registries::that_never_answer)
        .case("what_is_made_harmless", accepted::made_harmless)
        .case("links_of_lower_layers_are_not_followed", accepted::links_of_lower_layers)
        .case("a_pax_size_rules", accepted::a_pax_size_rules)
        .case("an_opaque_root_hides_everything_below", accepted::an_opaque_root)
        .case("an_image_of_120_layers", accepted::an_image_of_120_layers)
        .case("file_capabilities", accepted::file_capabilities)
        .case("the_longest_path", accepted::the_longest_path)
        .one_at_a_time()
        .run(Ground::start)
}
