package proxy

import (
	"slices"
	"testing"
)

// TestLabels: each kind and each result has a name of its own.
func TestLabels(t *testing.T) {
	for _, names := range [][]string{kindNames[:], resultNames[:]} {
		sorted := slices.Sorted(slices.Values(names))
		if sorted[0] == "" || len(slices.Compact(sorted)) != len(names) {
			t.Errorf("%q has a name twice, or none", names)
		}
	}
	if len(kindNames) != int(kindReferrers)+1 || len(resultNames) != int(resultFailed)+1 {
		t.Error("a kind or a result has no name")
	}
}
