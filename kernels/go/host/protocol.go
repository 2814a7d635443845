package main

import (
	"encoding/json"
	"os"
	"sync"
)

// request is what the driver asks; which fields are set depends on Op.
type request struct {
	Op         string            `json:"op"`
	ID         int               `json:"id"`
	Code       string            `json:"code"`
	Count      int               `json:"count"`
	Silent     bool              `json:"silent"`
	AllowStdin bool              `json:"allow_stdin"`
	Env        map[string]string `json:"env"`
	Unset      []string          `json:"unset"`
	Cwd        *string           `json:"cwd"`
	Cursor     int               `json:"cursor"`
	Limit      int               `json:"limit"`
	Line       *string           `json:"line"`
}

type message map[string]any

// failure is a cell that could not be built, or a program that failed.
type failure struct {
	Name      string   `json:"name"`
	Value     string   `json:"value"`
	Traceback []string `json:"traceback"`
}

// outcome is how a run ended.
type outcome struct {
	failure  *failure
	exitCode int
	note     string
}

func (o outcome) message() message {
	return message{"failure": o.failure, "exit_code": o.exitCode, "note": o.note}
}

func failed(name, value string, traceback ...string) outcome {
	return outcome{failure: &failure{name, value, traceback}, exitCode: 1}
}

// messages writes to the driver, one line each, from any goroutine.
type messages struct {
	lock sync.Mutex
	file *os.File
}

func newMessages(file *os.File) *messages {
	return &messages{file: file}
}

func (m *messages) send(content message) {
	data, err := json.Marshal(content)
	if err != nil {
		// Only what a program itself sent as JSON gets here, and that was parsed before.
		panic(err)
	}
	m.lock.Lock()
	defer m.lock.Unlock()
	// Without its driver the host is about to be killed: there is nobody to tell.
	_, _ = m.file.Write(append(data, '\n'))
}

func (m *messages) reply(id int, content message) {
	content["op"] = "reply"
	content["id"] = id
	m.send(content)
}
