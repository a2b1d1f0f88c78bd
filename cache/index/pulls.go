package index

import (
	"encoding/json"
	"errors"
	"iter"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/opencontainers/go-digest"
)

const pullFamily = "pulled/" // registry, repository, tag or digest → Pulled as JSON

// PullName names an image that was pulled.
type PullName struct {
	Registry   string `json:"registry"`   // as it is configured: docker.io
	Repository string `json:"repository"` // as the registry knows it: library/nginx
	Name       string `json:"name"`       // a tag or a digest
}

func (n PullName) valid() bool {
	return n.Registry != "" && n.Repository != "" && n.Name != "" && !strings.Contains(n.Registry+n.Repository+n.Name, separator)
}

func (n PullName) key() string {
	return pullFamily + strings.Join([]string{n.Registry, n.Repository, n.Name}, separator)
}

// Pulled is what is known of the pulls of an image.
type Pulled struct {
	Digest digest.Digest `json:"digest,omitempty"` // what it named when it was last pulled
	Uses
	// Platforms are those that clients have asked a layer of, by their name in the
	// index. The name is empty for an image that is no index.
	Platforms map[string]Uses `json:"platforms,omitempty"`
}

// Uses is how often something was pulled. Times are seconds since 1970.
type Uses struct {
	Last int64      `json:"last,omitempty"` // 0 for never
	Days []DayPulls `json:"days,omitempty"` // those of the last 30 days that have any, by day
}

// DayPulls is how often something was pulled on a day.
type DayPulls struct {
	Day   int64 `json:"d"` // since 1970, UTC
	Pulls int64 `json:"n"`
}

// PullRecord is a Pulled with its name.
type PullRecord struct {
	PullName
	Pulled
}

// PutPulled writes what is known of pulls, and removes what is nil, in one batch.
// A name that is not valid is left out.
func (x *Index) PutPulled(all map[PullName]*Pulled) error {
	return x.batchForSnapshot(func(batch *badger.WriteBatch) error {
		for name, pulled := range all {
			if err := putPulled(batch, name, pulled); err != nil {
				return err
			}
		}
		return nil
	})
}

func putPulled(batch *badger.WriteBatch, name PullName, pulled *Pulled) error {
	switch {
	case !name.valid():
		return nil
	case pulled == nil:
		return batch.Delete([]byte(name.key()))
	}
	value, err := json.Marshal(pulled)
	return errors.Join(err, batch.Set([]byte(name.key()), value))
}

// Pulled iterates over what is known of pulls; see Tags.
func (x *Index) Pulled() iter.Seq2[PullRecord, error] {
	return records(x, pullFamily, "", parsePulled)
}

func parsePulled(key string, value []byte) (r PullRecord, ok bool) {
	f := strings.Split(key, separator)
	if len(f) != 3 {
		return PullRecord{}, false
	}
	r.PullName = PullName{f[0], f[1], f[2]}
	return r, json.Unmarshal(value, &r.Pulled) == nil && r.valid() && (r.Digest == "" || r.Digest.Validate() == nil)
}
