package metrics

import "github.com/prometheus/client_golang/prometheus"

// clientFamilies are the kinds of clients, by their User-Agent.
var clientFamilies = []string{"buildkit", "containerd", "containers", "docker", "other"}

// Bypass counts clients that may go around hubcap.
type Bypass struct{ suspected, outcomes *prometheus.CounterVec }

func newBypass(registry prometheus.Registerer) *Bypass {
	b := &Bypass{
		suspected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "bypass_suspected_total",
			Help: "Answers after which a client of this family asks the registry itself, once for a client, repository and tag or digest in 10 s: limited (429), failed, incomplete (the registry fails and the image is not completely cached), refused, unknown_registry, not_allowed (the client's address), cut (the answer ended early), not_found (the registry has nothing either). Families: docker, containerd, buildkit, containers (podman, buildah, skopeo, CRI-O), other.",
		}, []string{"family", "why"}),
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "bypass_outcomes_total",
			Help: "What became of suspected bypasses other than not_found: stayed (the client fetched the image here after all) or left (it did not within a minute).",
		}, []string{"family", "outcome"}),
	}
	registry.MustRegister(b.suspected, b.outcomes)
	for _, family := range clientFamilies { // so that an alert sees the first one
		b.outcomes.WithLabelValues(family, "left")
		b.outcomes.WithLabelValues(family, "stayed")
	}
	return b
}

// Suspected notes a client that may leave. Family and why are of closed sets;
// series appear with the first one of theirs.
func (b *Bypass) Suspected(family, why string) { b.suspected.WithLabelValues(family, why).Inc() }

// Decided notes what has become of a suspicion: left or stayed.
func (b *Bypass) Decided(family, outcome string) { b.outcomes.WithLabelValues(family, outcome).Inc() }
