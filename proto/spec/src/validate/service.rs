//! Services: as the broker would check them, in the spec's terms.

use cordium_egress::service::{MAX_SERVICES, Shape, check_all};

use super::{At, names};
use crate::error::SpecError;
use crate::model::Service;

pub(super) fn services(at: At<'_>, services: &[Service]) -> Result<(), SpecError> {
    // Of Template and Workspace together, too: the broker takes no more.
    if services.len() > MAX_SERVICES {
        return Err(at.error(format!("was a list of {}; allowed: at most {MAX_SERVICES}", services.len())));
    }
    let hosts: Vec<String> = services.iter().map(Service::local_host).collect();
    let shapes: Vec<Shape<'_>> =
        services.iter().zip(&hosts).map(|(service, host)| service.shape(host)).collect();
    check_all(&shapes).map_err(|(index, error)| at.index(index).field(&error.path).error(error.problem))?;
    for (index, service) in services.iter().enumerate() {
        names::dotted(at.index(index).field("fromSecret"), &service.from_secret)?;
    }
    Ok(())
}
