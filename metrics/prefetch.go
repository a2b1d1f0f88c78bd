package metrics

import "github.com/prometheus/client_golang/prometheus"

// Prefetch counts what was brought in before anybody asked for it.
type Prefetch struct {
	blobs  prometheus.Counter
	bytes  prometheus.Counter
	wasted prometheus.Counter
}

func newPrefetch(registry prometheus.Registerer) *Prefetch {
	return &Prefetch{
		blobs:  counter(registry, "prefetch_blobs_total", "Blobs fetched before a client requested them."),
		bytes:  counter(registry, "prefetch_bytes_total", "Bytes of the blobs fetched before a client requested them."),
		wasted: counter(registry, "prefetch_wasted_bytes_total", "Bytes of prefetched blobs that no client requested within ten minutes."),
	}
}

// Brought notes a blob of size bytes that is held and was not asked for.
func (p *Prefetch) Brought(size int64) {
	p.blobs.Inc()
	p.bytes.Add(float64(size))
}

// Wasted notes that nobody asked for a blob of size bytes in time.
func (p *Prefetch) Wasted(size int64) { p.wasted.Add(float64(size)) }
