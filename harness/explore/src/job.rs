//! Files that spread an exploration over machines with a batch engine: one shard for each task.

/// A batch engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Slurm,
    Kubernetes,
}

/// The job file for `shards` tasks; `more` are further options of `explore`, each with a space before it. The checkout is on storage that all nodes see; results are written there, and merged when all tasks are over.
pub fn file(engine: Engine, scenario: &str, shards: u64, more: &str) -> String {
    let name: String = scenario.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    // Without --jobs a task uses four processors.
    let cpus = more.split(" --jobs ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("4");
    match engine {
        // sbatch(1): the array's tasks are numbered by SLURM_ARRAY_TASK_ID.
        Engine::Slurm => format!(
            "#!/bin/sh
# sbatch explore.slurm; when the array is over: cargo orrery merge out/{scenario}/explore-*-of-{shards}.jsonl
#SBATCH --job-name=explore-{name}
#SBATCH --array=1-{shards}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
#SBATCH --requeue
set -eu
cd \"${{SLURM_SUBMIT_DIR:-.}}\"
exec cargo orrery explore {scenario} --shard \"$SLURM_ARRAY_TASK_ID/{shards}\"{}
",
            if more.contains(" --jobs ") { more.to_owned() } else { format!(" --jobs \"${{SLURM_CPUS_PER_TASK:-1}}\"{more}") }
        ),
        // An indexed job numbers its pods from 0 in JOB_COMPLETION_INDEX.
        Engine::Kubernetes => format!(
            "# kubectl apply -f explore.yaml; when the job is complete: cargo orrery merge out/{scenario}/explore-*-of-{shards}.jsonl
apiVersion: batch/v1
kind: Job
metadata:
  name: explore-{name}
spec:
  completions: {shards}
  parallelism: {shards}
  completionMode: Indexed
  backoffLimitPerIndex: 3
  # Status 1 is something found and 2 a request that makes no sense: nothing to try again. A node that is lost resumes from its results file.
  podFailurePolicy:
    rules:
      - action: FailIndex
        onExitCodes: {{ operator: In, values: [1, 2] }}
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: explore
          image: orrery   # Debian with a Rust toolchain; ./run --setup installs the rest
          workingDir: /orrery
          command: [\"/bin/sh\", \"-c\"]
          args: [\"exec cargo orrery explore {scenario} --shard $((JOB_COMPLETION_INDEX + 1))/{shards}{more}\"]
          resources:
            requests: {{ cpu: \"{cpus}\", memory: 4Gi }}
          volumeMounts:
            - {{ name: checkout, mountPath: /orrery }}
      volumes:
        - name: checkout
          persistentVolumeClaim: {{ claimName: orrery }}
"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_files_name_every_shard() {
        let slurm = file(Engine::Slurm, "linux/race", 8, "");
        assert!(slurm.starts_with("#!/bin/sh\n") && slurm.contains("--array=1-8") && slurm.contains("--shard \"$SLURM_ARRAY_TASK_ID/8\" --jobs \"${SLURM_CPUS_PER_TASK:-1}\"\n"));
        let kubernetes = file(Engine::Kubernetes, "linux/race", 8, " --jobs 2 --chaos");
        assert!(kubernetes.contains("name: explore-linux-race") && kubernetes.contains("completions: 8") && kubernetes.contains("+ 1))/8 --jobs 2 --chaos") && kubernetes.contains("cpu: \"2\""));
        assert!(kubernetes.contains("onExitCodes: { operator: In, values: [1, 2] }"), "a shard that found something is not tried again");
    }
}
