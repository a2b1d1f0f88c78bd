package metrics

import (
	"slices"
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

// answered are the kinds of requests and the results that an answer to each can
// have. Content results are those whose time to the first byte is of interest. The
// body of an answer without content is a page of hubcap's own or an error: it saves
// no transfer, and is not counted.
var (
	failures  = []string{"not_found", "refused", "limited", "failed"}
	noContent = append([]string{"local"}, failures...)
	answered  = []struct {
		kind               string
		content, otherwise []string
	}{
		{"manifest", []string{"hit", "confirmed", "stale", "miss", "joined"}, append([]string{"forwarded"}, failures...)},
		{"blob", []string{"hit", "miss", "joined", "uncached"}, append([]string{"forwarded"}, failures...)},
		{"tags", nil, append([]string{"hit", "confirmed", "stale", "miss", "joined", "forwarded"}, failures...)},
		{"referrers", nil, append([]string{"hit", "confirmed", "stale", "miss", "joined", "forwarded"}, failures...)},
		{"ping", nil, append([]string{"local"}, failures...)},
		{"other", nil, []string{"local", "refused", "failed"}},
	}
)

// views are how repositories that are not public are shown.
var views = []string{"shared", "own", "hidden", "denied"}

// answer is the kind of a request and the result of its answer.
type answer struct{ kind, result string }

// answers are the counters of one answer; bytes and firstByte are nil where they do
// not count.
type answers struct {
	total, bytes prometheus.Counter
	firstByte    prometheus.Observer
}

// Requests counts what clients asked and what they were given.
type Requests struct {
	total      *prometheus.CounterVec
	bytes      *prometheus.CounterVec
	answers    map[answer]answers // not changed after newRequests
	aborted    prometheus.Counter
	cut        prometheus.Counter
	panics     prometheus.Counter
	running    prometheus.Gauge
	delayed    prometheus.Counter
	limited    []prometheus.Counter
	restricted *prometheus.CounterVec
}

func newRequests(registry prometheus.Registerer) *Requests {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
		registry.MustRegister(v)
		return v
	}
	r := &Requests{
		total:      vec("requests_total", "Client requests, by what was requested and where the answer came from.", "kind", "result"),
		bytes:      vec("client_bytes_total", "Body bytes of manifests, blobs and lists sent to clients, by where they came from.", "result"),
		restricted: vec("restricted_requests_total", "Client requests for repositories that are not public, by how they are shown: shared, own (the client's own token), hidden (404 on a mirror port), denied (by ALLOW or DENY).", "view"),
		answers:    make(map[answer]answers),
		aborted:    counter(registry, "client_aborts_total", "Answers whose client disconnected before the end."),
		cut:        counter(registry, "cut_answers_total", "Answers that hubcap ended early, because the rest could not be fetched or was wrong."),
		panics:     counter(registry, "panics_total", "Requests, fills and verifications ended by a bug; the log has the stack."),
		delayed:    counter(registry, "delayed_requests_total", "Times a client request was held because its upstream asked to wait for a short time."),
		limited:    counters(registry, "client_limits_total", "Answers on which a client met a limit: not_found (429, too many not-found responses), too_slow (disconnected, read too slowly).", "limit", clientLimitNames[:]),
		running:    gauge(registry, "requests_running", "Client requests being answered."),
	}
	firstByte := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: namespace, Name: "first_byte_seconds",
		Help:    "Seconds from the end of the request head to the first byte of the answer, for manifests and blobs that were sent.",
		Buckets: []float64{.0005, .002, .01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"kind", "result"})
	registry.MustRegister(firstByte)
	for _, a := range answered {
		for _, result := range a.content {
			r.add(a.kind, result, firstByte.WithLabelValues(a.kind, result))
		}
		for _, result := range a.otherwise {
			r.add(a.kind, result, nil)
		}
	}
	for _, view := range views {
		r.restricted.WithLabelValues(view)
	}
	return r
}

// add makes the series of an answer, so that rates count its first one too.
func (r *Requests) add(kind, result string, firstByte prometheus.Observer) {
	r.answers[answer{kind, result}] = answers{r.total.WithLabelValues(kind, result), r.bytesOf(result), firstByte}
}

// bytesOf returns the counter of bytes of a result; nil for one without content.
func (r *Requests) bytesOf(result string) prometheus.Counter {
	if slices.Contains(noContent, result) {
		return nil
	}
	return r.bytes.WithLabelValues(result)
}

// Started notes a request that begins to be answered; Done ends it.
func (r *Requests) Started() { r.running.Inc() }

// Done notes an answer: what was asked for, what the answer was made from, its
// bytes of body, and the time to its first byte. Kind and result are of closed
// sets.
func (r *Requests) Done(kind, result string, bytes int64, firstByte time.Duration) {
	r.running.Dec()
	a, ok := r.answers[answer{kind, result}]
	if !ok { // an answer that was not expected
		a.total, a.bytes = r.total.WithLabelValues(kind, result), r.bytesOf(result)
	}
	a.total.Inc()
	if a.bytes != nil {
		a.bytes.Add(float64(bytes))
	}
	if a.firstByte != nil {
		a.firstByte.Observe(firstByte.Seconds())
	}
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
