package upstream

import (
	"strings"
	"testing"
)

func TestShape(t *testing.T) {
	deep := func(n int) string { return `{"a":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}` }
	for name, tc := range map[string]struct {
		manifest string
		fine     bool
	}{
		"an image":                  {`{"schemaVersion":2,"mediaType":"x","config":{"digest":"d","size":1},"layers":[{"digest":"a"},{"digest":"b"}]}`, true},
		"a name twice below":        {`{"layers":[{"digest":"a"},{"digest":"b"}],"annotations":{"x":"mediaType","y":"mediaType"}}`, true},
		"a value like a name":       {`{"a":"b","b":"a","c":["a","b"],"d":{"a":1}}`, true},
		"empty":                     {`{}`, true},
		"as deep as allowed":        {deep(maxDepth - 1), true},
		"deeper":                    {deep(maxDepth), false},
		"much deeper":               {deep(100_000), false},
		"as many as allowed":        {`{"manifests":[` + strings.Repeat("{},", maxObjects-2) + `{}]}`, true},
		"more":                      {`{"manifests":[` + strings.Repeat("{},", maxObjects-1) + `{}]}`, false},
		"a media type twice":        {`{"mediaType":"a","config":{},"mediaType":"b"}`, false},
		"a media type in two cases": {`{"mediaType":"a","MediaType":"b"}`, false},
		"layers twice":              {`{"layers":[{"digest":"a"}],"layers":[]}`, false},
		"a name twice, escaped":     {`{"layers":[],"l\u0061yers":[]}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := checkShape([]byte(tc.manifest)); (err == nil) != tc.fine {
				t.Errorf("%v", err)
			}
		})
	}
}

// BenchmarkShape reads the largest manifest there may be, and a hostile one of
// the same size.
func BenchmarkShape(b *testing.B) {
	fine := `{"layers":[` + strings.Repeat(`{"digest":"sha256:`+strings.Repeat("a", 64)+`","size":1},`, 25_000) + `{}]}`
	hostile := `{"manifests":[` + strings.Repeat("{},", 1<<20) + `{}]}`
	for name, manifest := range map[string]string{"large": fine, "hostile": hostile} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(manifest)))
			for b.Loop() {
				_ = checkShape([]byte(manifest))
			}
		})
	}
}
