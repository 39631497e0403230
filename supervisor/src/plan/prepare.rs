//! The image's part of what the agent is told.

use std::time::Duration;

use cordium_proto::v1::PrepareRequest;
use oci_spec::image::ImageConfiguration;

use super::{
    RunPlan,
    main_process::{image_env, main_process},
};

/// Completes what the agent is told.
pub fn finish_prepare(
    plan: &RunPlan,
    image: &ImageConfiguration,
    fresh: bool,
    remaining: Duration,
) -> Result<PrepareRequest, String> {
    Ok(PrepareRequest {
        fresh,
        image_env: image_env(image),
        main: main_process(plan.entrypoint.as_deref(), plan.cmd.as_deref(), image)?,
        // 0 would mean the agent's own default.
        startup_timeout_ms: u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX).max(1),
        ..plan.prepare.clone()
    })
}
