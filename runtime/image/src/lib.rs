//! The image store of a node: pulls OCI images and keeps one unpacked directory per layer.
//!
//! A layer is streamed from its source into a separate, confined process (see [`unpack_main`]) that
//! decompresses it, computes its diff id and applies its entries by directory descriptor, inside a user
//! namespace of its own. This process only moves bytes, verifies digests and publishes: a layer is renamed
//! into `layers/` once everything about it is known to be right, never before.
//!
//! Published layers are shared by every workspace of the node. Who uses an image holds a [`StoredImage`];
//! what is held is never removed.
//!
//! Their files belong to one range of subordinate ids, home. A workspace that runs in another range gets them by
//! way of a [`View`]: the same trees again, with owners of that range, and without the data where that can be.

mod atomic;
mod catalog;
mod config;
mod digest;
mod durability;
mod error;
mod flight;
mod gc;
mod layer;
mod layout;
mod lease;
mod manifest;
mod progress;
mod pull;
mod reference;
mod registries;
mod source;
mod staged;
mod store;
mod unpack;
mod view;
mod view_sweep;

pub use config::{IdMap, Limits, StoreConfig, Timeouts, ViewMethod};
pub use error::{ErrorKind, ImageError, LayerError};
pub use progress::{Progress, ProgressSink, Step, no_progress};
pub use registries::{Credentials, RegistriesConfig, Registry};
pub use store::{ImageInfo, ImageStore, Pruned, StoredImage};
pub use unpack::child::unpack_main;
pub use unpack::give::GIVING;
pub use view::View;
