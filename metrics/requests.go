package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ClientLimit is a limit that a client met.
type ClientLimit uint8

// The limits of clients.
const (
	ClientNotFound ClientLimit = iota // refused: it has caused too many not-found responses
	ClientTooSlow                     // cut: it took too little of its answer
	clientLimits
)

var clientLimitNames = [clientLimits]string{"not_found", "too_slow"}

// Requests counts what clients asked and what they were given.
type Requests struct {
	total      *prometheus.CounterVec
	bytes      *prometheus.CounterVec
	firstByte  *prometheus.HistogramVec
	aborted    prometheus.Counter
	cut        prometheus.Counter
	panics     prometheus.Counter
	running    prometheus.Gauge
	delayed    prometheus.Counter
	limited    []prometheus.Counter
	restricted *prometheus.CounterVec
}

func newRequests(registry prometheus.Registerer) *Requests {
	total := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Name: "requests_total",
		Help: "Client requests, by what was requested and where the answer came from.",
	}, []string{"kind", "result"})
	firstByte := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: namespace, Name: "first_byte_seconds",
		Help:    "Seconds from the end of the request head to the first byte of the answer.",
		Buckets: []float64{.0001, .0005, .001, .005, .01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"kind", "result"})
	restricted := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Name: "restricted_requests_total",
		Help: "Client requests for repositories that are not public, by how they are shown: shared, own (the client's own token), hidden (404 on a mirror port), denied (by ALLOW or DENY).",
	}, []string{"view"})
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: namespace, Name: "client_bytes_total",
		Help: "Body bytes sent to clients, by where the answer came from.",
	}, []string{"result"})
	registry.MustRegister(total, bytes, firstByte, restricted)
	return &Requests{
		total: total, bytes: bytes, firstByte: firstByte, restricted: restricted,
		aborted: counter(registry, "client_aborts_total", "Answers whose client disconnected before the end."),
		cut:     counter(registry, "cut_answers_total", "Answers that hubcap ended early, because the rest could not be fetched or was wrong."),
		panics:  counter(registry, "panics_total", "Requests, fills and verifications ended by a bug; the log has the stack."),
		delayed: counter(registry, "delayed_requests_total", "Times a client request was held because its upstream asked to wait for a short time."),
		limited: counters(registry, "client_limits_total", "Answers on which a client met a limit: not_found (429, too many not-found responses), too_slow (disconnected, read too slowly).", "limit", clientLimitNames[:]),
		running: gauge(registry, "requests_running", "Client requests being answered."),
	}
}

// Started notes a request that begins to be answered; Done ends it.
func (r *Requests) Started() { r.running.Inc() }

// Done notes an answer: what was asked for, what the answer was made from, its
// bytes of body, and the time to its first byte. Kind and result are of closed
// sets; series appear with the first answer of theirs.
func (r *Requests) Done(kind, result string, bytes int64, firstByte time.Duration) {
	r.running.Dec()
	r.total.WithLabelValues(kind, result).Inc()
	r.bytes.WithLabelValues(result).Add(float64(bytes))
	r.firstByte.WithLabelValues(kind, result).Observe(firstByte.Seconds())
}

// Restricted notes a request for a repository that is not public. view is one
// of a closed set: shared, own, hidden, denied.
func (r *Requests) Restricted(view string) { r.restricted.WithLabelValues(view).Inc() }

// Limited notes a client that met a limit.
func (r *Requests) Limited(limit ClientLimit) { r.limited[limit].Inc() }

// Aborted notes a client that left before the end of its answer.
func (r *Requests) Aborted() { r.aborted.Inc() }

// Cut notes an answer that hubcap broke off.
func (r *Requests) Cut() { r.cut.Inc() }

// Delayed notes a request that waits until its upstream may be asked.
func (r *Requests) Delayed() { r.delayed.Inc() }

// Panicked notes a request or a fill that a bug has ended.
func (r *Requests) Panicked() { r.panics.Inc() }
