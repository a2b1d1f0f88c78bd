package advisor

import "math"

// A histogram has steps buckets for each doubling of the distance, up to
// 2^octaves bytes.
const (
	steps   = 16
	octaves = 52
)

// histogram counts requests and their bytes by distance.
type histogram struct {
	buckets [steps * octaves]weighted
	total   weighted // with the first requests, which have no distance
}

// weighted is an estimated number of requests and of their bytes.
type weighted struct{ Requests, Bytes float64 }

func (w *weighted) add(size int64, weight float64) {
	w.Requests += weight
	w.Bytes += weight * float64(size)
}

func (w *weighted) scale(factor float64) {
	w.Requests *= factor
	w.Bytes *= factor
}

func (h *histogram) scale(factor float64) {
	h.total.scale(factor)
	for i := range h.buckets {
		h.buckets[i].scale(factor)
	}
}

// hit counts a request whose object was last used distance bytes ago; it stands
// for weight requests.
func (h *histogram) hit(distance float64, size int64, weight float64) {
	h.buckets[bucket(distance)].add(size, weight)
	h.total.add(size, weight)
}

// cold counts a request of an object that was not seen before.
func (h *histogram) cold(size int64, weight float64) { h.total.add(size, weight) }

// below returns what has at most the distance.
func (h *histogram) below(distance float64) (requests, bytes float64) {
	last := bucket(distance)
	for _, b := range h.buckets[:last] {
		requests += b.Requests
		bytes += b.Bytes
	}
	// Within a bucket the distances count as evenly spread.
	from, to := lowest(last), lowest(last+1)
	part := clamp((distance - from) / (to - from))
	return requests + part*h.buckets[last].Requests, bytes + part*h.buckets[last].Bytes
}

// bucket returns the bucket of a distance.
func bucket(distance float64) int {
	return min(int(math.Log2(max(distance, 1))*steps), steps*octaves-1)
}

// lowest returns the smallest distance of a bucket.
func lowest(bucket int) float64 { return math.Exp2(float64(bucket) / steps) }
