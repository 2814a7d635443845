module kernelagent/host

go 1.23
