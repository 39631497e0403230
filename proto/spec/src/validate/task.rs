//! Tasks.

use super::{At, names, runtime, text};
use crate::error::SpecError;
use crate::model::Task;

pub(super) fn tasks(at: At<'_>, tasks: &[Task]) -> Result<(), SpecError> {
    at.count(tasks.len(), 128)?;
    for (index, task) in tasks.iter().enumerate() {
        let at = at.index(index);
        text::optional_line(at.field("name"), &task.name, 128)?;
        text::block(at.field("run"), &task.run, 5000)?;
        task.working_dir.iter().try_for_each(|path| text::absolute_path(at.field("workingDir"), path))?;
        let env = at.field("envVars");
        env.count(task.env_vars.len(), 128)?;
        for (index, variable) in task.env_vars.iter().enumerate() {
            let at = env.index(index);
            names::env_key(at.field("key"), &variable.key)?;
            runtime::env_value(at.field("value"), &variable.value)?;
        }
    }
    Ok(())
}
