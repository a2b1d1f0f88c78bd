package freshness

import "testing"

// BenchmarkFreshTag is a tag that is answered without asking.
func BenchmarkFreshTag(b *testing.B) {
	r := newRig(b)
	r.hub.push(app, "latest", "one")
	repo := r.repo(app)
	if _, err := r.Get(b.Context(), repo, "latest"); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if a, err := r.Get(b.Context(), repo, "latest"); err != nil || a.State != Fresh {
			b.Fatal(a, err)
		}
	}
}
