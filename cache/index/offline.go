package index

import (
	"encoding/json"
	"time"
)

const offlineKey = "n/offline" // Offline as JSON

// Offline is for how long an operator has taken the box offline.
type Offline struct {
	Since time.Time `json:"since"`
	Until time.Time `json:"until,omitzero"` // zero: until it is ended
}

// PutOffline writes that the box is offline, or with nil that it is not. It is on
// disk when PutOffline returns. It is not in the snapshot: with a lost index the box
// asks its upstreams again.
func (x *Index) PutOffline(o *Offline) error {
	if o == nil {
		return x.delete(offlineKey)
	}
	value, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if err := x.set(offlineKey, value); err != nil {
		return err
	}
	return x.sync()
}

// Offline returns for how long the box is offline; nil if it is not.
func (x *Index) Offline() (*Offline, error) {
	value, err := x.get(offlineKey)
	if err != nil || value == nil {
		return nil, err
	}
	o := new(Offline)
	return o, json.Unmarshal(value, o)
}
