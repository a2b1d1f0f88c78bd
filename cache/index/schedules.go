package index

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"
)

// Schedule is a list of images that is fetched regularly.
type Schedule struct {
	ID        string    `json:"id"`
	Refs      []string  `json:"refs"`                // full references
	Platforms []string  `json:"platforms,omitempty"` // as warm.Request has them
	Every     int64     `json:"every_s"`             // seconds between two runs
	Since     time.Time `json:"since"`               // when it was made
	Last      time.Time `json:"last,omitzero"`       // when it last ran
}

func (s Schedule) valid() bool {
	return s.ID != "" && !strings.Contains(s.ID, separator) && len(s.Refs) > 0 && s.Every > 0
}

// ErrTooLong says that a record would not fit into a line of the snapshot.
var ErrTooLong = errors.New("too long for one record")

// PutSchedule writes a schedule. It is on disk when PutSchedule returns. The error
// may be ErrTooLong.
func (x *Index) PutSchedule(s Schedule) error {
	if !s.valid() {
		return fmt.Errorf("index record of the schedule %q: not valid", s.ID)
	}
	value, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if len(value) > maxLine-64 { // the line has a few bytes around it
		return ErrTooLong
	}
	return cmp.Or(x.set(scheduleFamily+s.ID, value), x.sync())
}

// DeleteSchedule removes a schedule. It is gone from the disk when DeleteSchedule
// returns.
func (x *Index) DeleteSchedule(id string) error {
	return cmp.Or(x.delete(scheduleFamily+id), x.sync())
}

// Schedules iterates over the schedules, by their ids; see Tags.
func (x *Index) Schedules() iter.Seq2[Schedule, error] {
	return records(x, scheduleFamily, "", func(_ string, value []byte) (s Schedule, ok bool) {
		return s, json.Unmarshal(value, &s) == nil && s.valid()
	})
}
