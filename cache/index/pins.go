package index

import (
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/opencontainers/go-digest"
)

// PinName names a pinned image: one tag, or one digest, of a repository.
type PinName struct {
	Registry   string `json:"registry"`   // as it is configured: docker.io
	Repository string `json:"repository"` // as the registry knows it: library/nginx
	Reference  string `json:"reference"`  // a tag or a digest
}

// Pin is what is known of a pinned image.
type Pin struct {
	Platforms []string  `json:"platforms,omitempty"` // os/architecture[/variant]; none for those pulled here
	Until     time.Time `json:"until,omitzero"`      // when it ends; zero for never
	Note      string    `json:"note,omitempty"`      // the operator's
	By        string    `json:"by,omitempty"`        // who set it
	At        time.Time `json:"at"`                  // when it was set

	Held   digest.Digest `json:"held,omitempty"`   // what the reference named when its image was last held whole
	Pulled []string      `json:"pulled,omitempty"` // the platforms that were pulled here, where none are given
}

// PinRecord is a Pin with its name.
type PinRecord struct {
	PinName
	Pin
}

func (n PinName) valid() bool {
	return n.Registry != "" && n.Repository != "" && n.Reference != "" && !strings.Contains(n.Registry+n.Repository+n.Reference, separator)
}

func (n PinName) key() string {
	return pinFamily + strings.Join([]string{n.Registry, n.Repository, n.Reference}, separator)
}

func parsePin(key string, value []byte) (r PinRecord, ok bool) {
	f := strings.Split(key, separator)
	if len(f) != 3 || json.Unmarshal(value, &r.Pin) != nil {
		return PinRecord{}, false
	}
	r.PinName = PinName{Registry: f[0], Repository: f[1], Reference: f[2]}
	return r, r.valid()
}

// PutPins writes pins. They are on disk when PutPins returns, and in the snapshot
// soon after. A name that lacks a field, or holds a zero byte, is an error.
func (x *Index) PutPins(all ...PinRecord) error {
	values := make(map[string][]byte, len(all))
	for _, one := range all {
		value, err := json.Marshal(one.Pin)
		if err != nil {
			return err
		}
		if !one.valid() || len(value) > maxLine/2 {
			return fmt.Errorf("index record of the pin %q: not a valid name, or longer than %d bytes", one.PinName, maxLine/2)
		}
		values[one.key()] = value
	}
	return x.changePins(func(batch *badger.WriteBatch) error {
		for key, value := range values {
			if err := batch.Set([]byte(key), value); err != nil {
				return err
			}
		}
		return nil
	})
}

// DeletePins removes pins; they are gone from the disk when it returns.
func (x *Index) DeletePins(all ...PinName) error {
	return x.changePins(func(batch *badger.WriteBatch) error {
		for _, one := range all {
			if err := batch.Delete([]byte(one.key())); err != nil {
				return err
			}
		}
		return nil
	})
}

// changePins changes pins and syncs them. A snapshot follows at once: an operator
// set them, and nobody but the operator could set them again.
func (x *Index) changePins(change func(*badger.WriteBatch) error) error {
	if err := x.batchForSnapshot(change); err != nil {
		return err
	}
	select {
	case x.soon <- struct{}{}:
	default:
	}
	return x.sync()
}

// Pins iterates over the pins, by name; see Tags.
func (x *Index) Pins() iter.Seq2[PinRecord, error] { return records(x, pinFamily, "", parsePin) }
