package metrics

import "github.com/prometheus/client_golang/prometheus"

// jobKinds are the kinds of jobs, as proxy/jobs names them.
var jobKinds = []string{"warm", "pin", "freeze", "repair", "verify", "export", "import"}

// Jobs counts the jobs of operators.
type Jobs struct{ failed map[string]prometheus.Counter }

func newJobs(registry prometheus.Registerer) *Jobs {
	return &Jobs{countersByName(registry, "job_failures_total", "Jobs that failed, or of which a part failed, by kind: GET /api/v1/jobs says why.", "kind", jobKinds)}
}

// Failed counts a job that failed; kind is one of a closed set: warm, pin, freeze,
// repair, verify, export, import.
func (j *Jobs) Failed(kind string) { j.failed[kind].Inc() }
